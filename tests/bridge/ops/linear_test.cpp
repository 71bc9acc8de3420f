#include "bezel/bridge/ops/linear.h"

#include "bezel/bridge/ops/matrix_vector_kernel.h"
#include "tests/bridge/ops/exact.h"

namespace bezel::ops {
namespace {

// x [rows n_in], weight [n_out n_in] → Σ x w and Σ |x w|.
std::pair<at::Tensor, at::Tensor> by_loops(const at::Tensor& x, const at::Tensor& weight) {
  const auto rows = numbers(x), w = numbers(weight);
  const auto n_in = static_cast<std::size_t>(weight.size(1));
  std::vector<double> sums, terms;
  for (std::size_t row = 0; row < rows.size(); row += n_in) {
    for (std::size_t out = 0; out < w.size(); out += n_in) {
      double sum = 0, size = 0;
      for (std::size_t in = 0; in < n_in; ++in) {
        sum += rows[row + in] * w[out + in];
        size += std::abs(rows[row + in] * w[out + in]);
      }
      sums.push_back(sum);
      terms.push_back(size);
    }
  }
  auto shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return {tensor_of(sums, shape), tensor_of(terms, shape)};
}

class Linear : public ::testing::TestWithParam<Path> {};

// Around the group of rows that the kernel reads together, and the lanes that it adds.
TEST_P(Linear, OfOneRowFollowsTheLoopsForEverySize) {
  at::manual_seed(3);
  for (const std::int64_t n_out : {1, kRowsTogether - 1, kRowsTogether, kRowsTogether + 1, 37}) {
    for (const std::int64_t n_in : {1, kLanes - 1, kLanes, kLanes + 1, 3 * kLanes + 5, 1536}) {
      for (const auto type : {at::kBFloat16, at::kFloat}) {
        const auto x = at::randn({1, 1, n_in}).to(type), weight = at::randn({n_out, n_in}).to(type);
        const auto [want, terms] = by_loops(x, weight);
        expect_one_unit(linear(x, weight, GetParam()), want, terms);
      }
    }
  }
}

TEST_P(Linear, OfManyRowsFollowsTheLoops) {
  at::manual_seed(4);
  for (const auto type : {at::kBFloat16, at::kFloat}) {
    const auto x = at::randn({2, 3, 40}).to(type), weight = at::randn({19, 40}).to(type);
    const auto [want, terms] = by_loops(x, weight);
    expect_one_unit(linear(x, weight, GetParam()), want, terms);
  }
}

TEST_P(Linear, OfAViewIsThatOfItsCopy) {
  at::manual_seed(5);
  const auto weight = at::randn({24, 32}).to(at::kBFloat16);
  const auto wide = at::randn({1, 1, 64}).to(at::kBFloat16);
  const auto every_second = wide.slice(-1, 0, 64, 2);
  EXPECT_TRUE(at::equal(linear(every_second, weight, GetParam()),
                        linear(every_second.contiguous(), weight, GetParam())));
  const auto columns = at::randn({24, 64}).to(at::kBFloat16).slice(-1, 0, 64, 2);
  EXPECT_TRUE(at::allclose(linear(every_second, columns, GetParam()),
                           linear(every_second, columns.contiguous(), GetParam()), 2e-2, 2e-2));
}

TEST_P(Linear, PassesGradientsToBothOfItsInputs) {
  const auto x = at::randn({1, 1, 32}).to(at::kBFloat16).requires_grad_(true);
  const auto weight = at::randn({24, 32}).to(at::kBFloat16).requires_grad_(true);
  linear(x, weight, GetParam()).sum().backward();
  EXPECT_TRUE(at::allclose(x.grad()[0][0], weight.detach().sum(0), 2e-2, 2e-2));
  EXPECT_TRUE(at::equal(weight.grad(), x.detach()[0].expand({24, 32})));
}

TEST(LinearPaths, TheKernelSumsInFloat32AndRoundsOnce) {
  at::manual_seed(6);
  const auto x = at::randn({1, 4096}).to(at::kBFloat16);
  const auto weight = at::randn({512, 4096}).to(at::kBFloat16);
  const auto [want, terms] = by_loops(x, weight);
  const auto off = [&](Path path) {
    return (linear(x, weight, path).to(at::kDouble) - want).abs().sum().item<double>();
  };
  EXPECT_LE(off(Path::kAutomatic), 1.01 * off(Path::kOpen));
}

INSTANTIATE_TEST_SUITE_P(BothPaths, Linear, ::testing::ValuesIn(kBothPaths));

}  // namespace
}  // namespace bezel::ops
