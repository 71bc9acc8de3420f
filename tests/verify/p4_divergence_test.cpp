#include "bezel/verify/phases/p4_divergence.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace bezel::verify {
namespace {

constexpr std::int64_t kEos = 1, kPad = 0;
constexpr double kTie = 0.01;

Continuation rows(const std::vector<std::vector<std::int64_t>>& tokens,
                  const EosIds& ids = {kEos}) {
  std::vector<at::Tensor> stacked;
  for (const auto& row : tokens) stacked.push_back(at::tensor(row, at::kLong));
  return {at::stack(stacked), ids};
}
at::Tensor gap(const Continuation& of, float everywhere) {
  return at::full(of.tokens.sizes(), everywhere);
}

TEST(Divergence, EqualContinuationsDoNotPart) {
  const auto text = rows({{5, 6, 7}, {5, kEos, kPad}});
  EXPECT_TRUE(divergences(text, text, gap(text, 0)).empty());
  EXPECT_EQ(divergence_check("", {}, kTie).verdict(), Verdict::kPassed);
}

TEST(Divergence, TheFirstStepOfEachRowIsFound) {
  const auto want = rows({{5, 6, 7}, {5, 6, 7}, {5, 6, 7}});
  const auto found = divergences(rows({{5, 6, 7}, {5, 8, 9}, {4, 6, 7}}), want, gap(want, 0.5F));
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].row, 1U);
  EXPECT_EQ(found[0].step, 1U);
  EXPECT_EQ(found[0].got, 8);
  EXPECT_EQ(found[0].want, 6);
  EXPECT_EQ(found[1].row, 2U);
  const auto check = divergence_check("", found, kTie);
  EXPECT_EQ(check.measured, 2);
  EXPECT_EQ(check.place, (std::vector<std::size_t>{1, 1}));
  EXPECT_NE(check.why.find("got 8, wanted 6; the wanted token is 0.5 ahead"), std::string::npos)
      << check.why;
}

TEST(Divergence, ANearTiePassesAndIsSaid) {
  const auto want = rows({{5, 6, 7}});
  const auto found = divergences(rows({{5, 8, 9}}), want, gap(want, 0.009F));
  const auto check = divergence_check("", found, kTie);
  EXPECT_EQ(check.verdict(), Verdict::kPassed);
  EXPECT_NE(check.why.find("near-tie: row 0 parts at step 1"), std::string::npos) << check.why;
  EXPECT_EQ(divergence_check("", found, 0.008).verdict(), Verdict::kFailed);
}

TEST(Divergence, ARowThatGoesOnBehindTheOthersEndIsNoNearTie) {
  const auto ended = rows({{5, kEos, kPad}});
  const auto on = rows({{5, kEos, 9}}, {});
  EXPECT_EQ(divergence_check("", divergences(on, ended, gap(ended, 0)), kTie).measured, 1);
  EXPECT_EQ(divergence_check("", divergences(ended, on, gap(on, 0)), kTie).measured, 1);
}

TEST(Divergence, AnEndThatIsChosenInsteadOfATokenMayBeANearTie) {
  const auto want = rows({{5, 6, 7}});
  const auto found = divergences(rows({{5, kEos, kPad}}), want, gap(want, 0));
  EXPECT_EQ(divergence_check("", found, kTie).verdict(), Verdict::kPassed);
}

TEST(Divergence, BehindAnIdThatCutsNothingIsCompared) {
  const auto want = rows({{5, 8, 6, 7}, {5, 6, 7, 7}});
  const auto got = rows({{5, 8, 2, 2}, {5, 6, 2, 2}});
  const auto cut = cut_behind(got, want, {8});
  EXPECT_TRUE(at::equal(cut.tokens, rows({{5, 8, 6, 7}, {5, 6, 2, 2}}).tokens));
  EXPECT_TRUE(at::equal(cut_behind(rows({{5, 9, 6, 7}, {5, 6, 7, 7}}), want, {8}).tokens,
                        rows({{5, 9, 6, 7}, {5, 6, 7, 7}}).tokens));
}

TEST(Divergence, TextsStopBeforeTheirEnd) {
  const auto text = rows({{5, 6, 7}, {5, kEos, kPad}, {8, 6, 7}});
  EXPECT_EQ(texts(text, {8}), (Rows{{5, 6, 7}, {5}, {}}));
}

TEST(Divergence, ARowIsOpenUpToItsEndAndNotBehind) {
  const auto open = is_open(rows({{5, kEos, kPad}, {5, 6, kEos}}));
  EXPECT_TRUE(at::equal(open.to(at::kLong), rows({{1, 1, 0}, {1, 1, 1}}).tokens));
}

TEST(Divergence, TheGapIsOfTheTwoHighestLogits) {
  const auto logits = at::tensor({1.0F, 4.0F, 3.5F, -9.0F}).view({1, 1, 4});
  EXPECT_EQ(gap_of(logits).item<float>(), 0.5F);
}

}  // namespace
}  // namespace bezel::verify
