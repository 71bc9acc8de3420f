#include "bezel/bridge/ops/softcap.h"

#include "tests/bridge/ops/exact.h"

namespace bezel::ops {
namespace {

constexpr double kCap = 30.0;  // of Gemma 4's logits

at::Tensor by_loops(const at::Tensor& x) {
  auto values = numbers(x);
  for (double& value : values) value = kCap * std::tanh(value / kCap);
  return tensor_of(values, x.sizes());
}

at::Tensor logits(at::ScalarType type) {
  at::manual_seed(1);
  const auto sizes = at::tensor({1e-3, 1.0, 30.0, 500.0}, at::kDouble).unsqueeze(1);
  return (at::randn({4, 999}, at::kDouble) * sizes).to(type);
}

TEST(Softcap, InBfloat16IsWithinOneUnitOfItsFloat64Result) {
  const auto x = logits(at::kBFloat16);
  expect_one_unit(softcap(x, kCap), by_loops(x), by_loops(x).abs());
}

TEST(Softcap, InFloat32AndFloat64FollowsTheLoops) {
  const auto x = logits(at::kFloat), wide = logits(at::kDouble);
  expect_one_unit(softcap(x, kCap), by_loops(x), by_loops(x).abs());
  expect_close(softcap(wide, kCap), by_loops(wide), 1e-15);
}

TEST(Softcap, NothingExceedsTheCapAndTheSignStays) {
  const auto x = at::tensor({-1e30, -40.0, 0.0, 40.0, 1e30}, at::kFloat);
  const auto got = numbers(softcap(x, kCap));
  EXPECT_EQ(got.front(), -kCap);
  EXPECT_EQ(got[2], 0.0);
  EXPECT_EQ(got.back(), kCap);
  EXPECT_EQ(got[1], -got[3]);
}

}  // namespace
}  // namespace bezel::ops
