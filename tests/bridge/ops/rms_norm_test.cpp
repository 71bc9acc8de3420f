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

// Heads of a packed projection, copies per head, a slice with gaps, one row alone.
TEST_P(RmsNorm, ViewsGiveTheSameBitsAsTensorsOfTheirOwn) {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const auto packed = at::randn({2, 5, 4 * 17}, at::kDouble).to(type);
    const std::vector<at::Tensor> views = {
        packed.narrow(-1, 17, 34).unflatten(-1, {2, 17}),
        packed.narrow(-1, 0, 17).unsqueeze(2).expand({-1, -1, 3, -1}),
        packed.unflatten(-1, {17, 4}).select(-1, 2),
        packed.transpose(0, 1),
        packed.slice(1, 0, 5, 2),
        packed[1][2],
    };
    for (std::size_t i = 0; i < views.size(); ++i) {
      const auto gain = gains(views[i].size(-1), type);
      const auto own = views[i].clone(at::MemoryFormat::Contiguous);
      EXPECT_TRUE(at::equal(rms_norm(views[i], gain, settings_), rms_norm(own, gain, settings_)))
          << type << i;
      EXPECT_EQ(rms_norm(views[i], {}, settings_).sizes(), own.sizes());
    }
  }
}

TEST_P(RmsNorm, ManyRowsOnSeveralThreadsAreEachTheirOwn) {
  const auto x = at::randn({3000, 40}), gain = gains(40, at::kFloat);
  const auto got = rms_norm(x, gain, settings_);
  for (const int row : {0, 1, 818, 819, 820, 1499, 2999}) {
    EXPECT_TRUE(at::equal(got[row], rms_norm(x[row], gain, settings_))) << row;
  }
}

TEST_P(RmsNorm, GradientsFollowFiniteDifferences) {
  const auto x = at::randn({3, 7}, at::kDouble).requires_grad_(true);
  const auto gain = gains(7, at::kDouble).requires_grad_(true),
             weights = at::randn({3, 7}, at::kDouble);
  (rms_norm(x, gain, settings_) * weights).sum().backward();
  const auto slope = [&](const at::Tensor& dx, const at::Tensor& dgain) {
    const auto loss = [&](double step) {
      const auto y = by_loops(x.detach() + dx * step, gain.detach() + dgain * step);
      return (y * weights).sum().item<double>();
    };
    return (loss(1e-6) - loss(-1e-6)) / 2e-6;
  };
  const auto dx = at::randn_like(x), dgain = at::randn_like(gain);
  const auto none = at::zeros_like(x), no_gain = at::zeros_like(gain);
  EXPECT_NEAR((x.grad() * dx).sum().item<double>(), slope(dx, no_gain), 1e-7);
  EXPECT_NEAR((gain.grad() * dgain).sum().item<double>(), slope(none, dgain), 1e-7);
  for (const auto type : {at::kFloat, at::kBFloat16}) {  // fused forms must step aside
    const auto leaf = at::randn({3, 7}).to(type).requires_grad_(true);
    EXPECT_TRUE(rms_norm(leaf, {}, settings_).requires_grad()) << type;
  }
}

INSTANTIATE_TEST_SUITE_P(BothPaths, RmsNorm, ::testing::ValuesIn(kBothPaths));

constexpr NormHooks kNames = {"ln1.hook_scale", "ln1.hook_normalized"};

TEST(RmsNormNames, ScaleIsTheRootMeanSquareAndNormalizedTimesScaleIsTheInput) {
  at::manual_seed(2);
  for (const Path path : kBothPaths) {
    for (const auto type : {at::kBFloat16, at::kFloat}) {
      OneOp op({.names = {"blocks.0.ln1.*"}});
      const auto x = rows(33, type).unsqueeze(0), gain = gains(33, type);
      const auto got = rms_norm(x, gain, settings_of(path), kNames, op.tap());
      expect_one_unit(got, by_loops(x, gain), by_loops(x, gain).abs());
      const auto scale = op.cached("blocks.0.ln1.hook_scale");
      const auto normalized = op.cached("blocks.0.ln1.hook_normalized");
      EXPECT_EQ(scale.scalar_type(), at::kFloat);
      EXPECT_EQ(scale.sizes(), (at::IntArrayRef{1, 6, 1}));
      EXPECT_EQ(normalized.scalar_type(), at::kFloat);
      expect_one_unit(normalized, by_loops(x, {}), by_loops(x, {}).abs());
      expect_close((normalized * scale).to(at::kDouble), x.to(at::kDouble), 3e-7);
    }
  }
}

// Edits and gradients of the inside are not lost to a form that hides it.
TEST(RmsNormNames, GradientsOfScaleAndNormalizedArrive) {
  at::manual_seed(4);
  for (const auto type : {at::kFloat, at::kDouble}) {
    OneOp op({.names = {"blocks.0.ln1.*"}, .gradients = true});
    const auto x = at::randn({1, 4, 8}).to(type), gain = gains(8, type);
    rms_norm(x, gain, settings_of(Path::kAutomatic), kNames, op.tap()).sum().backward();
    expect_close(op.cached("blocks.0.ln1.hook_normalized_grad"),
                 gain.expand({1, 4, 8}).to(at::kDouble), 1e-6);
    const auto scale = op.cached("blocks.0.ln1.hook_scale").to(at::kDouble);
    const auto wanted = -(x.to(at::kDouble) * gain / scale.pow(2)).sum(-1, true);
    expect_close(op.cached("blocks.0.ln1.hook_scale_grad"), wanted, 1e-5);
  }
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
