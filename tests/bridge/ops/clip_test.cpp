// Matrices that clamp what enters and what leaves them.
#include <limits>

#include "bezel/bridge/ops/linear.h"
#include "tests/bridge/ops/exact.h"

namespace bezel::ops {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double clamped(double x, double lowest, double highest) {
  if (x < lowest) return lowest;
  return x > highest ? highest : x;
}

// x [rows n_in], weight [n_out n_in], bounds: lowest and highest in, lowest and highest out.
at::Tensor by_loops(const at::Tensor& x, const at::Tensor& weight,
                    const std::vector<double>& bounds) {
  const auto rows = numbers(x), w = numbers(weight);
  const auto n_in = static_cast<std::size_t>(weight.size(1));
  std::vector<double> out;
  for (std::size_t row = 0; row < rows.size(); row += n_in) {
    for (std::size_t column = 0; column < w.size(); column += n_in) {
      double sum = 0;
      for (std::size_t in = 0; in < n_in; ++in) {
        sum += clamped(rows[row + in], bounds[0], bounds[1]) * w[column + in];
      }
      out.push_back(clamped(sum, bounds[2], bounds[3]));
    }
  }
  auto shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return tensor_of(out, shape);
}

at::Tensor tensor_of_bounds(const std::vector<double>& bounds, at::ScalarType type) {
  return at::tensor(bounds, at::kDouble).to(type);
}

class ClipOnBothPaths : public ::testing::TestWithParam<Path> {};

TEST_P(ClipOnBothPaths, FollowsTheLoops) {
  at::manual_seed(21);
  const std::vector<std::vector<double>> cases = {{-0.5, 0.75, -1.0, 2.0},
                                                  {-kInfinity, kInfinity, -kInfinity, kInfinity},
                                                  {-kInfinity, 0.25, -0.5, kInfinity},
                                                  {0.125, 0.125, -4.0, 4.0}};
  for (const auto& bounds : cases) {
    for (const auto& [type, bound] : {std::pair{at::kFloat, 2e-6}, {at::kDouble, 1e-14}}) {
      const auto x = at::randn({2, 3, 40}, type), weight = at::randn({19, 40}, type);
      const Clip clip(tensor_of_bounds(bounds, type));
      expect_close(linear(x, weight, clip, GetParam()), by_loops(x, weight, bounds), bound);
    }
  }
}

TEST_P(ClipOnBothPaths, OfOneRowFollowsTheLoopsToo) {
  at::manual_seed(22);
  const std::vector<double> bounds = {-0.5, 0.75, -1.0, 2.0};
  const auto x = at::randn({1, 1, 40}).to(at::kBFloat16);
  const auto weight = at::randn({19, 40}).to(at::kBFloat16);
  expect_close(linear(x, weight, Clip(tensor_of_bounds(bounds, at::kBFloat16)), GetParam()),
               by_loops(x, weight, bounds), 1e-2);
}

TEST_P(ClipOnBothPaths, WithoutBoundsIsTheProjectionItself) {
  at::manual_seed(23);
  const auto x = at::randn({2, 3, 40}) * 1e6, weight = at::randn({19, 40});
  EXPECT_TRUE(
      at::equal(linear(x, weight, Clip(at::Tensor()), GetParam()), linear(x, weight, GetParam())));
}

INSTANTIATE_TEST_SUITE_P(BothPaths, ClipOnBothPaths, ::testing::ValuesIn(kBothPaths));

TEST(Clip, HasExactlyItsBoundsWhereItBites) {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const auto bounds = tensor_of_bounds({-0.3, 0.7, -0.1, 0.9}, type);
    const Clip clip(bounds);
    const auto x = at::tensor({-5.0, 0.0, 5.0}).to(type);
    EXPECT_TRUE(at::equal(clip.entering(x), at::stack({bounds[0], x[1], bounds[1]})));
    EXPECT_TRUE(at::equal(clip.leaving(x), at::stack({bounds[2], x[1], bounds[3]})));
    EXPECT_EQ(clip.entering(x).scalar_type(), type);
  }
}

TEST(Clip, LeavesNaNWhatItIsAndWritesToNothing) {
  const auto x = at::tensor({std::nan(""), 5.0}).to(at::kFloat), before = x.clone();
  const auto y = Clip(tensor_of_bounds({-1, 1, -1, 1}, at::kFloat)).entering(x);
  EXPECT_TRUE(y[0].isnan().item<bool>());
  EXPECT_TRUE(at::equal(x[1], before[1]));
  EXPECT_FALSE(y.is_alias_of(x));
}

TEST(Clip, PassesGradientsWhereItDoesNotBiteAndStopsThemWhereItDoes) {
  const auto x = at::tensor({-5.0, 0.25, 5.0}).requires_grad_(true);
  Clip(tensor_of_bounds({-1, 1, -1, 1}, at::kFloat)).entering(x).sum().backward();
  EXPECT_TRUE(at::equal(x.grad(), at::tensor({0.0F, 1.0F, 0.0F})));
}

TEST(Clip, ItsBoundsGetGradientsWhereTheyAreAskedFor) {
  const auto bounds = tensor_of_bounds({-1, 1, -1, 1}, at::kFloat).requires_grad_(true);
  const auto x = at::tensor({-5.0F, -6.0F, 0.25F, 5.0F});
  Clip(bounds).entering(x).sum().backward();
  EXPECT_TRUE(at::equal(bounds.grad(), at::tensor({2.0F, 1.0F, 0.0F, 0.0F})));
}

TEST(Clip, OfOneOfSeveralMatricesHasItsOwnFour) {
  const auto bounds = at::arange(12).to(at::kFloat);
  const auto x = at::full({1}, -100.0F);
  for (std::int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(clip_of(bounds, i).entering(x).item<float>(), static_cast<float>(4 * i));
    EXPECT_EQ(clip_of(bounds, i).leaving(x).item<float>(), static_cast<float>(4 * i + 2));
  }
  EXPECT_TRUE(clip_of({}, 2).entering(x).is_same(x));
}

}  // namespace
}  // namespace bezel::ops
