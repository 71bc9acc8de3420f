// Which keys a query sees.
#include "bezel/bridge/ops/attend.h"
#include "tests/bridge/ops/attention_loops.h"

namespace bezel::ops {
namespace {

constexpr std::int64_t kWindow = 5;

Mask made(std::int64_t n_pos, const Rule& rule, at::ScalarType type = at::kFloat) {
  return make_mask({n_pos, n_pos, rule.window_tokens}, rule.valid, rule.blocks,
                   at::TensorOptions().dtype(type));
}

void expect_rule(std::int64_t n_pos, const Rule& rule, std::int64_t n_batch) {
  const auto mask = made(n_pos, rule);
  const auto additive = mask.additive.expand({n_batch, 1, n_pos, n_pos});
  bool causal_only = true;
  for (int b = 0; b < n_batch; ++b) {
    for (int i = 0; i < n_pos; ++i) {
      for (int j = 0; j < n_pos; ++j) {
        const double value = additive[b][0][i][j].item<double>();
        const bool sees = rule.sees(b, i, j);
        EXPECT_EQ(value, sees ? 0.0 : std::numeric_limits<float>::lowest()) << b << i << " " << j;
        causal_only = causal_only && sees == (j <= i);
      }
    }
  }
  if (mask.sees == Sees::kBefore) {
    EXPECT_TRUE(causal_only) << "kernels would skip keys that are visible, or see hidden ones";
  }
}

TEST(Mask, AFullLayerSeesItselfAndAllBefore) {
  for (const std::int64_t n_pos : {1, 2, 33}) {
    expect_rule(n_pos, {}, 1);
    EXPECT_EQ(made(n_pos, {}).sees, Sees::kBefore);
  }
}

TEST(Mask, ASlidingLayerSeesAsManyTokensAsItsWindowItselfIncluded) {
  for (const std::int64_t n_pos : {std::int64_t{1}, kWindow - 1, kWindow, kWindow + 1,
                                   std::int64_t{31}, std::int64_t{32}, std::int64_t{33}}) {
    expect_rule(n_pos, {.window_tokens = kWindow}, 1);
    expect_rule(n_pos, {.window_tokens = 2}, 1);
  }
  const auto visible = made(33, {.window_tokens = kWindow}).additive[0][0][32] == 0;
  EXPECT_EQ(visible.sum().item<std::int64_t>(), kWindow);
}

TEST(Mask, PaddingIsSeenByNobody) {
  const auto left = at::tensor({0, 0, 1, 1, 1, 1, 1, 1}, at::kLong), right = left.flip(0);
  const Rule rule{.valid = at::stack({left, right}).to(at::kBool)};
  expect_rule(8, rule, 2);
  Rule sliding = rule;
  sliding.window_tokens = 3;
  expect_rule(8, sliding, 2);
  EXPECT_EQ(made(8, rule).sees, Sees::kSome);
}

TEST(Mask, TokensOfOneImageSeeEachOtherBothWaysWithinTheWindow) {
  const auto blocks = at::tensor({-1, 0, 0, 0, 1, 1, -1, -1}, at::kLong).unsqueeze(0);
  for (const std::int64_t window : {2, 3, 8}) {
    expect_rule(8, {.window_tokens = window, .blocks = blocks}, 1);
  }
  EXPECT_EQ(made(8, {.window_tokens = 8, .blocks = blocks}).additive[0][0][1][3].item<double>(),
            0.0);
}

TEST(Mask, HiddenKeysHaveTheLowestFiniteNumberOfTheModelsDtype) {
  EXPECT_EQ(made(2, {}, at::kBFloat16).additive[0][0][0][1].item<at::BFloat16>(),
            std::numeric_limits<at::BFloat16>::lowest());
  EXPECT_EQ(made(2, {}, at::kDouble).additive[0][0][0][1].item<double>(),
            std::numeric_limits<double>::lowest());
}

}  // namespace
}  // namespace bezel::ops
