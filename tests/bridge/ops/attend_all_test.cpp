// Attention in which every query sees every key: images without padding.
#include "bezel/bridge/ops/attend.h"
#include "tests/bridge/ops/attention_loops.h"
#include "tests/bridge/ops/one_op.h"

namespace bezel::ops {
namespace {

constexpr const char* kScores = "blocks.0.attn.hook_attn_scores";
constexpr const char* kPattern = "blocks.0.attn.hook_pattern";

struct Heads {
  at::Tensor q, k, v;
};

Heads heads(std::int64_t n_kv_heads, at::ScalarType type) {
  at::manual_seed(n_kv_heads);
  return {at::randn({2, 9, 4, 8}, type), at::randn({2, 9, n_kv_heads, 8}, type),
          at::randn({2, 9, n_kv_heads, 8}, type)};
}

// As the vision encoder has it: one number for all.
Mask all(at::ScalarType type) {
  return {at::zeros({1, 1, 1, 1}, type).expand({1, 1, 9, 9}), Sees::kAll};
}

TEST(AttendAll, BothFormsFollowTheLoopsWithoutAMask) {
  for (const std::int64_t n_kv_heads : {1, 2, 4}) {
    for (const auto& [type, bound] : {std::pair{at::kFloat, 2e-6}, {at::kDouble, 1e-14}}) {
      const auto [q, k, v] = heads(n_kv_heads, type);
      const auto want = mix_by_loops(softmax_by_loops(dots_by_loops(q, k).sum), v).sum;
      for (const auto path : kBothPaths) {
        expect_close(attend(q, k, v, all(type), path, {}), want, bound);
      }
    }
  }
}

TEST(AttendAll, ScoresAndPatternAreThoseOfTheLoopsOnBothPaths) {
  for (const auto path : kBothPaths) {
    const auto [q, k, v] = heads(2, at::kFloat);
    OneOp op({.names = {kScores, kPattern}});
    attend(q, k, v, all(at::kFloat), path, op.tap());
    const auto want = dots_by_loops(q, k).sum;
    expect_close(op.cached(kScores), want, 1e-6);
    expect_close(op.cached(kPattern), softmax_by_loops(want), 1e-6);
  }
}

TEST(AttendAll, AMaskPerImageHidesThePaddingOfItsOwnImage) {
  const auto valid = at::ones({2, 9}, at::kBool);
  valid[1].narrow(0, 6, 3).fill_(false);
  const auto [q, k, v] = heads(2, at::kFloat);
  auto additive = at::zeros({2, 1, 9, 9});
  additive.masked_fill_(valid.logical_not().view({2, 1, 1, 9}),
                        std::numeric_limits<float>::lowest());
  const auto scores =
      dots_by_loops(q, k).sum.masked_fill(valid.logical_not().view({2, 1, 1, 9}), -1e300);
  const auto want = mix_by_loops(softmax_by_loops(scores), v).sum;
  for (const auto path : kBothPaths) {
    expect_close(attend(q, k, v, {additive}, path, {}), want, 2e-6);
    // The same mask with one row for all queries.
    expect_close(attend(q, k, v, {additive.narrow(2, 0, 1).expand({2, 1, 9, 9})}, path, {}), want,
                 2e-6);
    OneOp op({.names = {kPattern}});
    attend(q, k, v, {additive.narrow(2, 0, 1).expand({2, 1, 9, 9})}, path, op.tap());
    expect_close(op.cached(kPattern), softmax_by_loops(scores), 1e-6);
  }
}

}  // namespace
}  // namespace bezel::ops
