// Parts of P1: how far values, logits and choices of experts are from the reference's.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "bezel/verify/phases/p1_choices.h"
#include "bezel/verify/phases/p1_compared.h"
#include "bezel/verify/phases/p1_logits.h"
#include "bezel/verify/subject.h"

namespace bezel::verify {
namespace {

using Index = std::vector<std::size_t>;

// Two rows of three tokens, of which the first of the second row is padding.
const Case kPadded{.name = "padded", .mask = {{1, 1, 1}, {0, 1, 1}}};

ReferenceValue reference_of(const at::Tensor& value, std::vector<std::string> axes) {
  return {.axes = std::move(axes), .numbers = to_xarray(value)};
}

TEST(P1Values, TheErrorOfAllRowsIsTheirSumsAndThatOfTheWorstIsItsOwn) {
  at::manual_seed(1);
  const auto want = at::randn({2, 3, 4}), got = want + at::randn({2, 3, 4}) * 0.01;
  double gap[2] = {}, size[2] = {};
  for (int row = 0; row < 2; ++row) {
    for (int pos = row; pos < 3; ++pos) {
      for (int d = 0; d < 4; ++d) {
        const auto w = want[row][pos][d].item<double>(), g = got[row][pos][d].item<double>();
        gap[row] += (g - w) * (g - w);
        size[row] += w * w;
      }
    }
  }
  const auto found =
      compare_value(kPadded, got, reference_of(want, {"batch", "pos", "d_model"}), 1);
  EXPECT_NEAR(found.whole, std::sqrt((gap[0] + gap[1]) / (size[0] + size[1])), 1e-9);
  EXPECT_NEAR(found.error, std::max(std::sqrt(gap[0] / size[0]), std::sqrt(gap[1] / size[1])),
              1e-9);
}

TEST(P1Values, WhatCannotBeComparedIsInfinitelyFarOff) {
  const auto want = at::ones({2, 3, 4});
  const auto reference = reference_of(want, {"batch", "pos", "d_model"});
  EXPECT_EQ(compare_value(kPadded, want, reference, 1).whole, 0);
  EXPECT_EQ(compare_value(kPadded, want[0], reference, 1).whole, INFINITY);
  EXPECT_EQ(compare_value(kPadded, at::ones({2, 3, 5}), reference, 1).whole, INFINITY);
  auto bad = want.clone();
  bad[1][2][0] = std::nan("");
  EXPECT_EQ(compare_value(kPadded, bad, reference, 1).whole, INFINITY);
  EXPECT_EQ(compare_value(kPadded, bad, reference, 1).place, (Index{1, 2, 0}));
}

TEST(P1Values, WithoutAMaskEveryPositionCounts) {
  const Case whole{.name = "whole", .mask = xt::zeros<std::int64_t>({2, 0})};
  const auto want = at::ones({2, 3, 4});
  auto got = want.clone();
  got[1][0][0] = 2;
  const auto reference = reference_of(want, {"batch", "pos", "d_model"});
  EXPECT_EQ(compare_value(kPadded, got, reference, 1).whole, 0);
  EXPECT_GT(compare_value(whole, got, reference, 1).whole, 0);
}

// Of two images the second has two patches of three; of two clips the first has five frames of
// six, in chunks of four.
Case with_media() {
  Case input{.name = "media", .mask = {{1, 1}}};
  input.media["patch"] = {{1, 1, 1}, {1, 1, 0}};
  input.media["frame"] = {{1, 1, 1, 1, 1, 0}, {1, 1, 1, 1, 1, 1}};
  return input;
}

/// Where a value of these axes and this shape is compared: each element is moved alone.
std::vector<Index> compared_places(const Case& input, const ReferenceValue& reference,
                                   at::IntArrayRef shape) {
  std::vector<Index> places;
  const auto want = at::ones(shape);
  for (std::int64_t i = 0; i < want.numel(); ++i) {
    auto got = want.clone();
    got.view(-1)[i] = 2;
    const auto found = compare_value(input, kept_part(got, reference), reference, 1e-3);
    if (found.whole > 0) places.push_back(found.place);
  }
  return places;
}

// No query sees them as keys, which scores and patterns must say.
TEST(P1Values, PaddingPatchesAreNotComparedAsQueriesButAsKeys) {
  const auto axes = std::vector<std::string>{"image", "head", "q_patch", "k_patch"};
  const auto places =
      compared_places(with_media(), reference_of(at::ones({2, 1, 3, 3}), axes), {2, 1, 3, 3});
  std::vector<Index> want;
  for (std::size_t q = 0; q < 3; ++q) {
    for (std::size_t k = 0; k < 3; ++k) want.push_back({0, 0, q, k});
  }
  for (std::size_t q = 0; q < 2; ++q) {
    for (std::size_t k = 0; k < 3; ++k) want.push_back({1, 0, q, k});
  }
  EXPECT_EQ(places, want);
}

TEST(P1Values, OfAChunkTheFramesThatAreNoPaddingAreCompared) {
  const auto axes = std::vector<std::string>{"audio", "head", "chunk", "q_frame", "k_frame"};
  const auto places =
      compared_places(with_media(), reference_of(at::ones({2, 1, 2, 4, 1}), axes), {2, 1, 2, 4, 1});
  std::vector<Index> want;
  for (std::size_t clip = 0; clip < 2; ++clip) {
    for (std::size_t q = 0; q < 4; ++q) want.push_back({clip, 0, 0, q, 0});
    for (std::size_t q = 0; q < (clip == 0 ? 1U : 2U); ++q) want.push_back({clip, 0, 1, q, 0});
  }
  EXPECT_EQ(places, want);
}

TEST(P1Values, APartHasItsOwnChunks) {
  ReferenceValue part =
      reference_of(at::ones({2, 1, 1, 4, 1}), {"audio", "head", "chunk", "q_frame", "k_frame"});
  part.sample = Sample{.positions = {1}, .dims = {0}};
  const auto places = compared_places(with_media(), part, {2, 1, 2, 4, 1});
  EXPECT_EQ(places, (std::vector<Index>{{0, 0, 1, 0, 0}, {1, 0, 1, 0, 0}, {1, 0, 1, 1, 0}}));
}

TEST(P1Values, SoftTokensOfAllImagesAreOneValueAndAPartHasSomeOfThem) {
  const auto whole = reference_of(at::ones({3, 2}), {"soft", "d_model"});
  EXPECT_EQ(compared_places(with_media(), whole, {3, 2}).size(), 6);
  ReferenceValue part = reference_of(at::ones({2, 1}), {"soft", "d_model"});
  part.sample = Sample{.positions = {0, 2}, .dims = {1}};
  EXPECT_EQ(compared_places(with_media(), part, {3, 2}), (std::vector<Index>{{0, 1}, {2, 1}}));
}

TEST(P1Values, NoQuerySeesAPaddedKey) {
  constexpr float kLowest = std::numeric_limits<float>::lowest();
  auto want = at::ones({2, 1, 3, 3});
  want.select(0, 1).select(-1, 0).fill_(kLowest);
  const auto reference = reference_of(want, {"batch", "head", "q_pos", "k_pos"});
  auto got = want.clone();
  got[1][0][0][0] = 1;  // of a padded query
  EXPECT_EQ(compare_value(kPadded, got, reference, 1).whole, 0);
  got[1][0][2][0] = 1;
  EXPECT_EQ(compare_value(kPadded, got, reference, 1).whole, INFINITY);
  EXPECT_EQ(compare_value(kPadded, got, reference, 1).place, (Index{1, 0, 2, 0}));
}

/// Logits as a bundle keeps them: the highest few.
ReferenceLogits kept_of(const at::Tensor& logits, std::int64_t n) {
  const auto [values, ids] = logits.topk(n, -1);
  return {.top_ids = to_whole_xarray(ids),
          .top_values = to_xarray(values),
          .log_sum_exp = to_xarray(at::logsumexp(logits.to(at::kDouble), -1))};
}

double kl_by_loops(const at::Tensor& got, const at::Tensor& want, int row, int pos) {
  const auto log_p = want[row][pos].to(at::kDouble).log_softmax(-1);
  const auto log_q = got[row][pos].to(at::kDouble).log_softmax(-1);
  double kl = 0;
  for (std::int64_t v = 0; v < log_p.size(0); ++v) {
    const auto p = log_p[v].item<double>();
    kl += std::exp(p) * (p - log_q[v].item<double>());
  }
  return kl;
}

SeenLogits seen_of(const at::Tensor& logits, const ReferenceLogits& reference) {
  return seen_logits(logits, reference, 0);
}

TEST(P1Logits, OfTheWholeVocabularyTheDivergenceIsThatOfLoopsAndOfAPartIsLess) {
  at::manual_seed(2);
  const auto want = at::randn({2, 3, 10}) * 2, got = want + at::randn({2, 3, 10}) * 0.3;
  double kl = 0, n_top = 0;
  for (int row = 0; row < 2; ++row) {
    for (int pos = row; pos < 3; ++pos) {
      kl += kl_by_loops(got, want, row, pos);
      n_top += got[row][pos].argmax().item<int>() == want[row][pos].argmax().item<int>() ? 1 : 0;
    }
  }
  const auto whole = likelihoods_of(kPadded, seen_of(got, kept_of(want, 10)), kept_of(want, 10));
  EXPECT_NEAR(whole.kl, kl, 1e-5 * kl);
  EXPECT_EQ(whole.n_top, n_top);
  EXPECT_EQ(whole.n, 5);
  const auto part = likelihoods_of(kPadded, seen_of(got, kept_of(want, 5)), kept_of(want, 5));
  EXPECT_GT(part.kl, 0);
  EXPECT_LT(part.kl, kl);
  EXPECT_NEAR(likelihoods_of(kPadded, seen_of(want, kept_of(want, 5)), kept_of(want, 5)).kl, 0,
              1e-6);
}

TEST(P1Logits, TheLargestGapIsFoundAtItsPlaceAndNoneIsFurtherThanANaN) {
  at::manual_seed(3);
  const auto want = at::randn({2, 3, 10});
  auto got = want.clone();
  got[1][0] += 5;  // padding
  EXPECT_EQ(gaps_of(kPadded, seen_of(got, kept_of(want, 10)), kept_of(want, 10)).top, 0);
  got[1][2][7] += 0.5;
  const auto gaps = gaps_of(kPadded, seen_of(got, kept_of(want, 10)), kept_of(want, 10));
  EXPECT_NEAR(gaps.top, 0.5, 1e-6);
  EXPECT_EQ(gaps.place, (Index{1, 2, 7}));
  got[0][1][3] = std::nan("");
  EXPECT_EQ(gaps_of(kPadded, seen_of(got, kept_of(want, 10)), kept_of(want, 10)).top, INFINITY);
  EXPECT_EQ(gaps_of(kPadded, seen_of(got, kept_of(want, 10)), kept_of(want, 10)).log_sum_exp,
            INFINITY);
}

TEST(P1Choices, AnExpertIsWrongThatIsNotTheLikeliestLeft) {
  const Case one{.name = "one", .mask = {{1, 1, 0}}};
  const xt::xarray<float> probs = {{{0.5F, 0.3F, 0.2F}, {0.4F, 0.4F, 0.2F}, {1, 0, 0}}};
  const xt::xarray<std::int64_t> want = {{{0, 1}, {0, 1}, {0, 1}}};
  const auto same = other_choices(one, {want, probs}, want);
  EXPECT_EQ(same.n_wrong, 0);
  EXPECT_EQ(same.n_other, 0);
  EXPECT_EQ(same.n, 4);
  const auto found = other_choices(one, {{{{0, 2}, {1, 0}, {2, 2}}}, probs}, want);
  EXPECT_EQ(found.n_other, 3);
  EXPECT_EQ(found.n_wrong, 1);  // equal probabilities may be exchanged
  EXPECT_EQ(found.place, (Index{0, 0, 1}));
}

}  // namespace
}  // namespace bezel::verify
