#include "bezel/bridge/ops/moe_dispatch.h"

#include "tests/bridge/ops/exact.h"

namespace bezel::ops {
namespace {

struct Products {
  at::Tensor sum, terms;  // Σ x w and Σ |x w|
};

// x [batch pos k d_in], experts [batch pos k], weights [expert d_out d_in]
Products by_loops(const at::Tensor& x, const at::Tensor& experts, const at::Tensor& weights) {
  const auto rows = numbers(x), w = numbers(weights), chosen = numbers(experts);
  const auto d_in = static_cast<std::size_t>(x.size(-1)),
             d_out = static_cast<std::size_t>(weights.size(1));
  std::vector<double> sums, terms;
  for (std::size_t row = 0; row < chosen.size(); ++row) {
    for (std::size_t out = 0; out < d_out; ++out) {
      const double* matrix = &w[(static_cast<std::size_t>(chosen[row]) * d_out + out) * d_in];
      double sum = 0, size = 0;
      for (std::size_t in = 0; in < d_in; ++in) {
        sum += rows[row * d_in + in] * matrix[in];
        size += std::abs(rows[row * d_in + in] * matrix[in]);
      }
      sums.push_back(sum);
      terms.push_back(size);
    }
  }
  auto shape = x.sizes().vec();
  shape.back() = weights.size(1);
  return {tensor_of(sums, shape), tensor_of(terms, shape)};
}

at::Tensor random(at::IntArrayRef shape, at::ScalarType type) { return at::randn(shape).to(type); }

// Choices of 2 of 5 experts for [2, 7] tokens: mixed, one expert for all, the ends, twice the same.
std::vector<at::Tensor> choices() {
  const auto none = at::zeros({2, 7, 2}, at::kLong);
  return {at::randint(0, 5, {2, 7, 2}, at::kLong), none + 3, none + at::tensor({4, 0}, at::kLong),
          none + at::arange(7).remainder(5).view({1, 7, 1})};
}

class MoeDispatch : public ::testing::TestWithParam<Path> {};

TEST_P(MoeDispatch, InFloat32AndFloat64FollowsTheLoops) {
  at::manual_seed(1);
  for (const auto& experts : choices()) {
    for (const auto& [type, bound] : {std::pair{at::kFloat, 1e-6}, {at::kDouble, 1e-15}}) {
      const auto x = random({2, 7, 2, 33}, type), weights = random({5, 6, 33}, type);
      expect_close(expert_linear(x, experts, weights, GetParam()),
                   by_loops(x, experts, weights).sum, bound);
    }
  }
}

TEST_P(MoeDispatch, InBfloat16IsWithinOneUnitOfItsFloat64Result) {
  at::manual_seed(2);
  for (const std::int64_t d_in : {1, 31, 32, 33, 704}) {
    for (const auto& experts : choices()) {
      const auto x = random({2, 7, 2, d_in}, at::kBFloat16);
      const auto weights = random({5, 6, d_in}, at::kBFloat16);
      const auto [want, terms] = by_loops(x, experts, weights);
      expect_one_unit(expert_linear(x, experts, weights, GetParam()), want, terms);
    }
  }
}

TEST_P(MoeDispatch, OneTokenAndOneExpertWork) {
  const auto x = random({1, 1, 1, 4}, at::kDouble), weights = random({1, 3, 4}, at::kDouble);
  const auto experts = at::zeros({1, 1, 1}, at::kLong);
  expect_close(expert_linear(x, experts, weights, GetParam()), by_loops(x, experts, weights).sum,
               1e-15);
}

TEST_P(MoeDispatch, RepeatedRowsServeAsTheyAre) {
  at::manual_seed(3);
  const auto x = random({2, 7, 1, 8}, at::kDouble).expand({2, 7, 3, 8});
  const auto weights = random({5, 6, 8}, at::kDouble);
  const auto experts = at::randint(0, 5, {2, 7, 3}, at::kLong);
  expect_close(expert_linear(x, experts, weights, GetParam()), by_loops(x, experts, weights).sum,
               1e-15);
}

TEST_P(MoeDispatch, GradientsReachTheTokensAndOnlyTheChosenExperts) {
  at::manual_seed(4);
  const auto x = random({1, 3, 1, 4}, at::kDouble).requires_grad_(true);
  const auto weights = random({5, 2, 4}, at::kDouble).requires_grad_(true);
  const auto experts = at::tensor({3, 1, 3}, at::kLong).view({1, 3, 1});
  expert_linear(x, experts, weights, GetParam()).sum().backward();
  const auto chosen = weights.detach().index_select(0, experts.flatten());  // [pos d_out d_in]
  expect_close(x.grad().view({3, 4}), chosen.sum(1), 1e-15);
  const auto rows = x.detach().view({3, 4});
  expect_close(weights.grad()[3], (rows[0] + rows[2]).expand({2, 4}), 1e-15);
  for (const int unused : {0, 2, 4}) {
    EXPECT_EQ(weights.grad()[unused].abs().sum().item<double>(), 0.0);
  }
}

INSTANTIATE_TEST_SUITE_P(BothPaths, MoeDispatch, ::testing::ValuesIn(kBothPaths));

}  // namespace
}  // namespace bezel::ops
