#include "bezel/bridge/ops/gated_gelu.h"

#include "tests/bridge/ops/exact.h"

namespace bezel::ops {
namespace {

double gelu_by_tanh(double x) {
  const double u = std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x);
  return x / (1.0 + std::exp(-2.0 * u));  // x/2 (1 + tanh u) without its cancellation at u << 0
}

at::Tensor by_loops(const at::Tensor& gate, const at::Tensor& up) {
  auto values = numbers(gate);
  const auto factors = numbers(up);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = gelu_by_tanh(values[i]) * factors[i];
  return tensor_of(values, gate.sizes());
}

// Gates across the whole curve, its tails included.
std::pair<at::Tensor, at::Tensor> inputs(at::ScalarType type) {
  at::manual_seed(1);
  const auto gate = at::linspace(-12, 12, 4001, at::kDouble).to(type);
  return {gate, (at::randn({4001}, at::kDouble) * 8).to(type)};
}

// In the left tail 1 + tanh is lost in float32: the reference's gelu has the same noise.
at::Tensor noise(const at::Tensor& gate, const at::Tensor& up) {
  return (gate.to(at::kDouble) * up.to(at::kDouble)).abs();
}

class GatedGelu : public ::testing::TestWithParam<Path> {};

TEST_P(GatedGelu, InBfloat16IsWithinOneUnitOfItsFloat64Result) {
  const auto [gate, up] = inputs(at::kBFloat16);
  expect_one_unit(gated_gelu(gate, up, GetParam()), by_loops(gate, up), noise(gate, up), 2);
}

TEST_P(GatedGelu, InFloat32AndFloat64FollowsTheLoops) {
  const auto [gate, up] = inputs(at::kFloat);
  expect_one_unit(gated_gelu(gate, up, GetParam()), by_loops(gate, up), noise(gate, up), 4);
  const auto [wide_gate, wide_up] = inputs(at::kDouble);
  expect_close(gated_gelu(wide_gate, wide_up, GetParam()), by_loops(wide_gate, wide_up), 1e-15);
}

TEST_P(GatedGelu, IsTheTanhApproximationAndNotTheExactGelu) {
  const auto gate = at::full({1}, 2.0, at::kDouble), one = at::ones({1}, at::kDouble);
  const double exact = 1.0 + std::erf(std::sqrt(2.0));
  EXPECT_NEAR(gated_gelu(gate, one, GetParam()).item<double>(), 1.9545976940877750, 1e-15);
  EXPECT_GT(std::abs(1.9545976940877750 - exact), 9e-5);
}

TEST_P(GatedGelu, HalvesOfOneMatrixProductGiveTheSameBitsAsTensorsOfTheirOwn) {
  at::manual_seed(2);
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const std::int64_t d : {1, 3, 10, 31, 32, 33}) {
      const auto packed = at::randn({2, 3, 2 * d}, at::kDouble).to(type).chunk(2, -1);
      const auto own = gated_gelu(packed[0].contiguous(), packed[1].contiguous(), GetParam());
      EXPECT_TRUE(at::equal(gated_gelu(packed[0], packed[1], GetParam()), own)) << type << " " << d;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(BothPaths, GatedGelu, ::testing::ValuesIn(kBothPaths));

}  // namespace
}  // namespace bezel::ops
