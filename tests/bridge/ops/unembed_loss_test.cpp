#include "bezel/bridge/ops/unembed_loss.h"

#include <torch/csrc/autograd/autograd.h>

#include <array>
#include <optional>
#include <tuple>

#include "bezel/bridge/ops/linear.h"
#include "bezel/bridge/ops/softcap.h"
#include "bezel/hooks/error.h"
#include "tests/bridge/ops/exact.h"

namespace bezel::ops {
namespace {

using Cap = std::optional<double>;

struct Words {
  at::Tensor x, weight, targets;
};

// Some targets are likely, some are not.
Words words(std::int64_t n_rows, std::int64_t d_model, std::int64_t d_vocab, at::ScalarType type,
            std::int64_t seed = 0) {
  at::manual_seed(n_rows + d_vocab + 1000 * seed);
  const auto x = at::randn({n_rows, d_model}, at::kDouble);
  const auto weight = at::randn({d_vocab, d_model}, at::kDouble) * 0.8;
  auto targets = at::randint(0, d_vocab, {n_rows}, at::kLong);
  const auto likely = x.matmul(weight.t()).argmax(1);
  targets = at::where(at::arange(n_rows) % 3 == 0, likely, targets);
  return {x.to(type), weight.to(type), targets};
}

// By its definition in the dtype of the words; all logits at once.
at::Tensor by_definition(const Words& given, Cap cap) {
  auto logits = linear(given.x, given.weight, Path::kOpen);
  if (cap) logits = softcap(logits, *cap);
  const auto wide = logits.to(given.x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  return wide.logsumexp(1) - wide.gather(1, given.targets.unsqueeze(1)).squeeze(1);
}

Words widened(const Words& given) {
  return {given.x.detach().to(at::kDouble), given.weight.to(at::kDouble), given.targets};
}

at::Tensor gradient(const Words& given, const std::function<at::Tensor(const Words&)>& loss) {
  Words own = given;
  own.x = given.x.detach().requires_grad_(true);
  const auto weights = at::arange(1, own.x.size(0) + 1, at::kDouble);  // another for each row
  const auto nats = loss(own);
  return torch::autograd::grad({(nats * weights).sum()}, {own.x})[0];
}

// How far two ways are from a third, over as many draws as one needs: a single row may be near by
// luck.
class Distances {
 public:
  void add(const at::Tensor& got, const at::Tensor& want) {
    of_got_ += (got.to(at::kDouble) - want).pow(2).sum().item<double>();
    of_want_ += want.pow(2).sum().item<double>();
  }
  double relative() const { return std::sqrt(of_got_ / of_want_); }

 private:
  double of_got_ = 0, of_want_ = 0;
};
std::int64_t n_draws(std::int64_t n_rows) { return std::max<std::int64_t>(1, 60 / n_rows); }

using Case = std::tuple<at::ScalarType, std::int64_t, Cap>;
class UnembedLoss : public ::testing::TestWithParam<Case> {};

constexpr std::array kRowsAtOnce = {1, 7, 4096};

// Widths that fill no vector register, chunks that end amid the rows.
TEST_P(UnembedLoss, IsAsNearToFloat64AsItsDefinition) {
  const auto& [type, n_rows, cap] = GetParam();
  for (const std::int64_t d_vocab : {2, 63, 64, 1027}) {
    Distances open;
    std::array<Distances, kRowsAtOnce.size()> chunked;
    for (std::int64_t seed = 0; seed < n_draws(n_rows); ++seed) {
      const Words given = words(n_rows, 24, d_vocab, type, seed);
      const auto want = by_definition(widened(given), cap);
      open.add(by_definition(given, cap), want);
      for (std::size_t i = 0; i < kRowsAtOnce.size(); ++i) {
        const auto bytes = kRowsAtOnce[i] * d_vocab * given.x.element_size();
        chunked[i].add(unembed_loss(given.x, given.weight, given.targets, cap, bytes), want);
      }
    }
    for (const Distances& one : chunked)
      EXPECT_LE(one.relative(), 2 * open.relative()) << d_vocab << " words";
  }
}

TEST_P(UnembedLoss, HasAGradientAsNearToFloat64AsThatOfItsDefinition) {
  const auto& [type, n_rows, cap] = GetParam();
  const auto definition = [cap = cap](const Words& own) { return by_definition(own, cap); };
  for (const std::int64_t d_vocab : {63, 515}) {
    Distances open;
    std::array<Distances, kRowsAtOnce.size()> chunked;
    for (std::int64_t seed = 0; seed < n_draws(n_rows); ++seed) {
      const Words given = words(n_rows, 24, d_vocab, type, seed);
      const auto want = gradient(widened(given), definition);
      open.add(gradient(given, definition), want);
      for (std::size_t i = 0; i < kRowsAtOnce.size(); ++i) {
        const auto bytes = kRowsAtOnce[i] * d_vocab * given.x.element_size();
        const auto loss = [&, cap = cap](const Words& own) {
          return unembed_loss(own.x, own.weight, own.targets, cap, bytes);
        };
        chunked[i].add(gradient(given, loss), want);
      }
    }
    for (const Distances& one : chunked)
      EXPECT_LE(one.relative(), 2 * open.relative()) << d_vocab << " words";
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, UnembedLoss,
                         ::testing::Combine(::testing::Values(at::kFloat, at::kBFloat16),
                                            ::testing::Values(1, 2, 17, 130),
                                            ::testing::Values(Cap(), Cap(30.0), Cap(0.5))));

TEST(UnembedLossEdges, LargeLogitsOverflowNothing) {
  const Words given = {at::tensor({200.F, -200.F}).view({2, 1}),
                       at::tensor({1.F, -1.F, 0.5F}).view({3, 1}), at::tensor({1, 1}, at::kLong)};
  expect_close(unembed_loss(given.x, given.weight, given.targets, {}),
               at::tensor({400.0, 0.0}, at::kDouble), 1e-7);
}

TEST(UnembedLossEdges, NaNStaysNaNInItsRow) {
  Words given = words(3, 8, 100, at::kFloat);
  given.x[1][2] = std::numeric_limits<float>::quiet_NaN();
  for (const Cap cap : {Cap(), Cap(30.0)}) {
    const auto nan = unembed_loss(given.x, given.weight, given.targets, cap).isnan();
    EXPECT_TRUE(nan.equal(at::tensor({0, 1, 0}, at::kLong).to(at::kBool)));
  }
}

TEST(UnembedLossEdges, AGradientOfTheGradientIsRefused) {
  Words given = words(3, 8, 100, at::kFloat);
  given.x.requires_grad_(true);
  const auto loss = unembed_loss(given.x, given.weight, given.targets, {}).sum();
  EXPECT_THROW(torch::autograd::grad({loss}, {given.x}, {}, {}, /*create_graph=*/true),
               ArgumentError);
}

TEST(UnembedLossEdges, IsLeftToTheDefinitionInFloat64AndWhereTheWordsAreTrained) {
  Words given = words(3, 8, 100, at::kFloat);
  EXPECT_TRUE(can_chunk_loss(given.x, given.weight));
  EXPECT_FALSE(can_chunk_loss(given.x.to(at::kDouble), given.weight.to(at::kDouble)));
  EXPECT_FALSE(can_chunk_loss(given.x, given.weight.requires_grad_(true)));
}

}  // namespace
}  // namespace bezel::ops
