#include "bezel/bridge/ops/attend.h"

#include "tests/bridge/ops/attention_loops.h"
#include "tests/bridge/ops/one_op.h"

namespace bezel::ops {
namespace {

constexpr std::int64_t kWindow = 5;
constexpr const char* kScores = "blocks.0.attn.hook_attn_scores";
constexpr const char* kPattern = "blocks.0.attn.hook_pattern";

struct Case {
  std::int64_t n_pos, n_heads, n_kv_heads, d_head;
  std::optional<std::int64_t> window_tokens;
};

// Edge lengths of window and vector width; one query head per kv head, several, all.
std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::int64_t n_pos : {std::int64_t{1}, kWindow - 1, kWindow, kWindow + 1,
                                   std::int64_t{31}, std::int64_t{32}, std::int64_t{33}}) {
    all.push_back({n_pos, 4, 2, 8, kWindow});
    all.push_back({n_pos, 4, 1, 16, {}});
    all.push_back({n_pos, 2, 2, 32, {}});
  }
  return all;
}

struct Heads {
  at::Tensor q, k, v;
  Mask mask;
  Rule rule;
};

Heads heads(const Case& c, at::ScalarType type, const at::Tensor& valid = {}) {
  at::manual_seed(c.n_pos);
  const auto random = [&](std::int64_t n) { return at::randn({2, c.n_pos, n, c.d_head}).to(type); };
  Heads made{random(c.n_heads),
             random(c.n_kv_heads),
             random(c.n_kv_heads),
             {},
             {.window_tokens = c.window_tokens, .valid = valid}};
  made.mask =
      make_mask({c.n_pos, c.n_pos, c.window_tokens}, valid, {}, at::TensorOptions().dtype(type));
  return made;
}

struct Stages {
  at::Tensor pattern;
  Summed z;
};

Stages by_loops(const Heads& h) {
  const auto pattern = softmax_by_loops(hidden_by_rule(dots_by_loops(h.q, h.k).sum, h.rule));
  return {pattern, mix_by_loops(pattern, h.v)};
}

at::Tensor attended(const Heads& h, Path path, hooks::Tap tap = {}) {
  return attend(h.q, h.k, h.v, h.mask, path, tap);
}

TEST(Attend, InFloat32AndFloat64BothFormsFollowTheLoops) {
  for (const Case& c : cases()) {
    for (const auto& [type, bound] : {std::pair{at::kFloat, 2e-6}, {at::kDouble, 1e-14}}) {
      const Heads h = heads(c, type);
      const auto want = by_loops(h).z.sum;
      for (const auto path : kBothPaths) expect_close(attended(h, path), want, bound);
    }
  }
}

TEST(Attend, ScoresAndPatternAreThoseOfTheLoops) {
  for (const Case& c : cases()) {
    const Heads h = heads(c, at::kDouble);
    OneOp op({.names = {kScores, kPattern}});
    attended(h, Path::kAutomatic, op.tap());
    const auto want = hidden_by_rule(dots_by_loops(h.q, h.k).sum, h.rule);
    const auto seen = want > std::numeric_limits<double>::lowest();
    const auto got = op.cached(kScores);
    expect_close(got.masked_fill(~seen, 0), want.masked_fill(~seen, 0), 1e-14);
    EXPECT_TRUE(at::equal(got == std::numeric_limits<double>::lowest(), ~seen));
    expect_close(op.cached(kPattern), by_loops(h).pattern, 1e-14);
  }
}

// Each stage from what the stage before handed on: rounding a score moves the pattern by much more
// than one unit, in every implementation that keeps scores in bfloat16.
TEST(Attend, InBfloat16EachStageIsWithinOneUnitOfItsFloat64Result) {
  for (const auto path : kBothPaths) {
    for (const Case& c : cases()) {
      const Heads h = heads(c, at::kBFloat16);
      OneOp op({.names = {kScores, kPattern}});
      const auto z = attended(h, path, op.tap());
      const auto scores = op.cached(kScores), pattern = op.cached(kPattern);
      const auto [dots, terms] = dots_by_loops(h.q, h.k);
      const auto seen = hidden_by_rule(dots, h.rule) > std::numeric_limits<double>::lowest();
      expect_one_unit(scores.masked_fill(~seen, 0), dots.masked_fill(~seen, 0), terms);
      const auto want = softmax_by_loops(scores);
      expect_one_unit(pattern, want, want);
      const auto [sum, sizes] = mix_by_loops(pattern, h.v);
      expect_one_unit(z, sum, sizes);
    }
  }
}

TEST(Attend, InFloat32RecordedScoresAndPatternAreThoseOfTheLoops) {
  auto all = cases();
  all.push_back({200, 4, 2, 64, 17});  // rows longer than a block of the kernel, and no multiple
  for (const auto path : kBothPaths) {
    for (const Case& c : all) {
      const Heads h = heads(c, at::kFloat);
      OneOp op({.names = {kScores, kPattern}});
      const auto z = attended(h, path, op.tap());
      const auto scores = op.cached(kScores), pattern = op.cached(kPattern);
      const auto want = hidden_by_rule(dots_by_loops(h.q, h.k).sum, h.rule);
      const auto seen = want > std::numeric_limits<double>::lowest();
      expect_close(scores.masked_fill(~seen, 0), want.masked_fill(~seen, 0), 2e-6);
      expect_close(pattern, softmax_by_loops(scores), 1e-6);
      EXPECT_TRUE(at::equal(pattern.masked_select(~seen), at::zeros({(~seen).sum().item<long>()})));
      expect_close(z, by_loops(h).z.sum, 4e-6);
    }
  }
}

TEST(Attend, ANumberThatIsNoneStaysNoneInTheRecordedPattern) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const auto path : kBothPaths) {
      Heads h = heads({70, 4, 2, 8, {}}, type);
      h.q.select(1, 3).fill_(std::numeric_limits<float>::quiet_NaN());
      OneOp op({.names = {kPattern}});
      attended(h, path, op.tap());
      const auto none = op.cached(kPattern).isnan();
      EXPECT_TRUE(none.select(2, 3).all().item<bool>());
      EXPECT_FALSE(none.select(2, 4).any().item<bool>());
    }
  }
}

// The library rounds the probabilities to bfloat16, as the open form does where it names them. The
// unit is that of the sum's terms, Σ_k pattern |v|: z itself may cancel.
TEST(Attend, InBfloat16TheFusedFormErrsOneUnitForItsProbabilitiesAndOneForItsResult) {
  for (const Case& c : cases()) {
    const Heads h = heads(c, at::kBFloat16);
    const auto [sum, sizes] = by_loops(h).z;
    const auto got = numbers(attended(h, Path::kAutomatic));
    const auto want = numbers(sum), terms = numbers(sizes);
    for (std::size_t i = 0; i < got.size(); ++i) {
      ASSERT_LE(std::abs(got[i] - want[i]), 2 * unit(terms[i], at::kBFloat16))
          << c.n_pos << " " << i;
    }
  }
}

TEST(Attend, TheFusedFormErrsAtMostTwiceAsMuchAsTheOpenOne) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const Case& c :
         {Case{33, 4, 2, 8, kWindow}, Case{33, 4, 1, 16, {}}, Case{200, 4, 2, 64, 17}}) {
      const Heads h = heads(c, type);
      const auto want = by_loops(h).z.sum;
      const auto error = [&](Path path) {
        return (attended(h, path).to(at::kDouble) - want).pow(2).mean().sqrt().item<double>();
      };
      EXPECT_LE(error(Path::kAutomatic), 2 * error(Path::kOpen));
    }
  }
}

TEST(Attend, AFullyMaskedRowIsUniformAndHarmlessInBothForms) {
  const auto left = at::tensor({0, 0, 0, 1, 1, 1, 1}, at::kLong);
  const auto valid = at::stack({left, left.flip(0)}).to(at::kBool);
  for (const auto window : {std::optional<std::int64_t>(), std::optional<std::int64_t>(2)}) {
    for (const auto& [type, bound] :
         {std::pair{at::kFloat, 2e-6}, {at::kDouble, 1e-14}, {at::kBFloat16, 0.02}}) {
      const Heads h = heads({7, 4, 2, 8, window}, type, valid);
      for (const auto path : kBothPaths) expect_close(attended(h, path), by_loops(h).z.sum, bound);
      for (const auto path : kBothPaths) {
        OneOp op({.names = {kPattern}});
        attended(h, path, op.tap());
        const auto row = op.cached(kPattern).to(at::kDouble)[0][1][1];
        EXPECT_TRUE(at::allclose(row, at::full({7}, 1.0 / 7, at::kDouble), 1e-2));
      }
    }
  }
}

TEST(Attend, EditsOfScoresAndPatternReachTheResult) {
  const Heads h = heads({6, 4, 2, 8, {}}, at::kDouble);
  const auto uniform = [](const at::Tensor& x, const hooks::HookSite&) {
    return at::zeros_like(x);
  };
  OneOp scores({.edits = {hooks::edit(kScores, uniform)}});
  const auto mean = h.v.mean(1, true).repeat_interleave(2, 2).expand({2, 6, 4, 8});
  expect_close(attended(h, Path::kAutomatic, scores.tap()), mean, 1e-14);
  OneOp pattern({.edits = {hooks::edit(kPattern, uniform)}});
  const auto nothing = attended(h, Path::kAutomatic, pattern.tap());
  EXPECT_EQ(nothing.abs().max().item<double>(), 0.0);
}

TEST(Attend, ScoresAreNotDividedByTheRootOfTheHeadWidth) {
  const auto q = at::ones({1, 1, 1, 64}, at::kDouble);
  OneOp op({.names = {kScores}});
  attend(q, q, q, make_mask({1, 1, {}}, {}, {}, q.options()), Path::kOpen, op.tap());
  EXPECT_EQ(op.cached(kScores).item<double>(), 64.0);
}

TEST(Attend, GradientsOfBothFormsAgree) {
  const Heads h = heads({9, 4, 2, 8, 3}, at::kDouble);
  const auto weights = at::randn({2, 9, 4, 8}, at::kDouble);
  std::vector<at::Tensor> gradients;
  for (const auto path : kBothPaths) {
    Heads leaves = h;
    for (at::Tensor* leaf : {&leaves.q, &leaves.k, &leaves.v})
      *leaf = leaf->clone().requires_grad_(true);
    (attended(leaves, path) * weights).sum().backward();
    for (const at::Tensor& leaf : {leaves.q, leaves.k, leaves.v}) gradients.push_back(leaf.grad());
  }
  for (std::size_t i = 0; i < 3; ++i) expect_close(gradients[i + 3], gradients[i], 1e-13);
}

}  // namespace
}  // namespace bezel::ops
