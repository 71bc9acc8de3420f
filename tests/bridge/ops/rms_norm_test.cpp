#include "bezel/bridge/ops/rms_norm.h"

#include "tests/bridge/ops/exact.h"
#include "tests/bridge/ops/one_op.h"

namespace bezel::ops {
namespace {

constexpr double kEps = 1e-6;

// x [row d], gain [d] or undefined
at::Tensor by_loops(const at::Tensor& x, const at::Tensor& gain) {
  const auto values = numbers(x);
  const auto factors = gain.defined() ? numbers(gain) : std::vector<double>(x.size(-1), 1.0);
  const std::size_t d = factors.size();
  std::vector<double> result(values.size());
  for (std::size_t row = 0; row < values.size() / d; ++row) {
    double squares = 0;
    for (std::size_t i = 0; i < d; ++i) squares += values[row * d + i] * values[row * d + i];
    const double scale = std::sqrt(squares / static_cast<double>(d) + kEps);
    for (std::size_t i = 0; i < d; ++i) {
      result[row * d + i] = values[row * d + i] / scale * factors[i];
    }
  }
  return tensor_of(result, x.sizes());
}

// Rows of very different sizes, one of zeros.
at::Tensor rows(std::int64_t d, at::ScalarType type) {
  const auto sizes = at::tensor({1e-4, 1e-2, 1.0, 30.0, 2e4, 0.0}, at::kDouble).unsqueeze(1);
  return (at::randn({6, d}, at::kDouble) * sizes).to(type);
}

at::Tensor gains(std::int64_t d, at::ScalarType type) {
  return (at::rand({d}, at::kDouble) * 4 - 1).to(type);
}

class RmsNorm : public ::testing::TestWithParam<Path> {
 protected:
  void SetUp() override { at::manual_seed(1); }
  Settings settings_ = settings_of(GetParam());
};

TEST_P(RmsNorm, InBfloat16IsWithinOneUnitOfItsFloat64Result) {
  for (const std::int64_t d : {1, 31, 32, 33, 256, 1536}) {
    const auto x = rows(d, at::kBFloat16);
    const auto gain = gains(d, at::kBFloat16);
    const auto want = by_loops(x, gain), plain = by_loops(x, {});
    expect_one_unit(rms_norm(x, gain, settings_), want, want.abs());
    expect_one_unit(rms_norm(x, {}, settings_), plain, plain.abs());
  }
}

TEST_P(RmsNorm, InFloat32AndFloat64FollowsTheLoops) {
  for (const std::int64_t d : {1, 31, 32, 33, 1536}) {
    for (const auto& [type, bound] : {std::pair{at::kFloat, 4e-7}, {at::kDouble, 1e-15}}) {
      const auto x = rows(d, type), gain = gains(d, type);
      expect_close(rms_norm(x, gain, settings_), by_loops(x, gain), bound);
      expect_close(rms_norm(x, {}, settings_), by_loops(x, {}), bound);
    }
  }
}

TEST_P(RmsNorm, ARowOfZerosStaysZero) {
  const auto zeros = at::zeros({2, 8}, at::kBFloat16);
  EXPECT_EQ(rms_norm(zeros, {}, settings_).abs().max().item<double>(), 0.0);
}

TEST_P(RmsNorm, ReadsTheRowsOfAJointProjectionWhereTheyLie) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const auto packed = at::randn({2, 5, 24}, type);  // [batch pos (head d_head)]
    const auto gain = gains(4, type);
    const auto heads = packed.narrow(-1, 8, 12).unflatten(-1, {3, 4});
    const auto copies = packed.narrow(-1, 8, 4).unsqueeze(2).expand({2, 5, 3, 4});
    for (const auto& x : {heads, copies, heads.transpose(1, 2), heads.transpose(2, 3)}) {
      const auto factors = x.size(-1) == 4 ? gain : at::Tensor();
      EXPECT_TRUE(
          at::equal(rms_norm(x, factors, settings_), rms_norm(x.contiguous(), factors, settings_)));
    }
  }
}

TEST_P(RmsNorm, GradientsPassToInputAndGain) {
  const auto x = at::randn({3, 8}).requires_grad_(true), gain = gains(8, at::kFloat);
  const auto factors = gain.clone().requires_grad_(true);
  rms_norm(x, factors, settings_).sum().backward();
  const auto wide = x.detach().to(at::kDouble).requires_grad_(true);
  const auto wide_gain = gain.to(at::kDouble).requires_grad_(true);
  const auto scale = (wide.pow(2).mean(-1, true) + kEps).sqrt();
  (wide / scale * wide_gain).sum().backward();
  expect_close(x.grad(), wide.grad(), 1e-5);
  expect_close(factors.grad(), wide_gain.grad(), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(BothPaths, RmsNorm, ::testing::ValuesIn(kBothPaths));

constexpr NormHooks kNames = {"ln1.hook_scale", "ln1.hook_normalized"};

TEST(RmsNormNames, ScaleIsTheRootMeanSquareAndNormalizedTimesScaleIsTheInput) {
  at::manual_seed(2);
  OneOp op({.names = {"blocks.0.ln1.*"}});
  const auto x = rows(33, at::kBFloat16).unsqueeze(0);
  const auto gain = gains(33, at::kBFloat16);
  const auto got = rms_norm(x, gain, settings_of(Path::kAutomatic), kNames, op.tap());
  expect_one_unit(got, by_loops(x, gain), by_loops(x, gain).abs());
  const auto scale = op.cached("blocks.0.ln1.hook_scale");
  const auto normalized = op.cached("blocks.0.ln1.hook_normalized");
  EXPECT_EQ(scale.scalar_type(), at::kFloat);
  EXPECT_EQ(scale.sizes(), (at::IntArrayRef{1, 6, 1}));
  expect_one_unit(normalized, by_loops(x, {}), by_loops(x, {}).abs());
  expect_close((normalized * scale).to(at::kDouble), x.to(at::kDouble), 3e-7);
}

TEST(RmsNormNames, EditsOfScaleAndNormalizedReachTheResult) {
  at::manual_seed(3);
  const auto x = at::randn({1, 4, 8}, at::kDouble), gain = gains(8, at::kDouble);
  const auto half = [](const at::Tensor& value, const hooks::HookSite&) { return value / 2; };
  const auto plain = by_loops(x, gain);
  const auto settings = settings_of(Path::kAutomatic);
  OneOp scale({.edits = {hooks::edit("blocks.0.ln1.hook_scale", half)}});
  expect_close(rms_norm(x, gain, settings, kNames, scale.tap()), plain * 2, 1e-15);
  OneOp normalized({.edits = {hooks::edit("blocks.0.ln1.hook_normalized", half)}});
  expect_close(rms_norm(x, gain, settings, kNames, normalized.tap()), plain / 2, 1e-15);
}

}  // namespace
}  // namespace bezel::ops
