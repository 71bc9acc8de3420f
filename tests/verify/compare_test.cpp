#include "bezel/verify/compare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <xtensor/xbuilder.hpp>

namespace bezel::verify {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();
using Index = std::vector<std::size_t>;

xt::xarray<float> numbers() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  auto values = xt::xarray<float>::from_shape({2, 3, 4});
  for (float& x : values) x = normal(random);
  return values;
}

TEST(Compare, EqualValuesAreNoDistanceApart) {
  const auto comparison = compare(numbers(), numbers(), 1e-5);
  EXPECT_EQ(comparison.relative_rms, 0);
  EXPECT_EQ(comparison.max_abs, 0);
  EXPECT_NEAR(comparison.cosine, 1, 1e-12);
}

TEST(Compare, MeasuresAsALoopInFloat64Does) {
  const auto want = numbers();
  auto got = want;
  got(1, 2, 0) += 0.25F;
  got(0, 1, 3) -= 0.5F;
  double difference = 0, size = 0, product = 0, got_size = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double g = got.flat(i), w = want.flat(i);
    difference += (g - w) * (g - w);
    size += w * w;
    got_size += g * g;
    product += g * w;
  }
  const auto comparison = compare(got, want, 1e-5);
  EXPECT_DOUBLE_EQ(comparison.relative_rms, std::sqrt(difference / size));
  EXPECT_DOUBLE_EQ(comparison.cosine, product / std::sqrt(size * got_size));
  EXPECT_NEAR(comparison.max_abs, 0.5, 1e-6);
  EXPECT_EQ(comparison.first_bad, (Index{0, 1, 3}));
}

TEST(Compare, TheFirstBadElementIsTheFurthestWhereNoneIsAnOutlier) {
  const auto want = numbers();
  xt::xarray<float> got = want * 1.001F;
  got(1, 0, 2) = want(1, 0, 2) + 0.01F;
  EXPECT_EQ(compare(got, want, 1.0).first_bad, (Index{1, 0, 2}));
}

TEST(Compare, WhatIsNotFiniteIsCountedApartAndNeverPasses) {
  const auto want = numbers();
  auto got = want;
  got(1, 1, 1) = kNan;
  got(1, 2, 3) = kInfinity;
  const auto comparison = compare(got, want, 1e9);
  EXPECT_EQ(comparison.n_nan, 1U);
  EXPECT_EQ(comparison.n_infinite, 1U);
  EXPECT_EQ(comparison.relative_rms, kInfinity);
  EXPECT_EQ(comparison.max_abs, 0);
  EXPECT_EQ(comparison.first_bad, (Index{1, 1, 1}));
}

TEST(Compare, AZeroReferenceAllowsZerosAlone) {
  const xt::xarray<float> zeros = xt::zeros<float>({3});
  EXPECT_EQ(compare(zeros, zeros, 1e-5).relative_rms, 0);
  EXPECT_EQ(compare(zeros, zeros, 1e-5).cosine, 1);
  EXPECT_EQ(compare(xt::xarray<float>{0, 1e-20F, 0}, zeros, 1e-5).relative_rms, kInfinity);
}

TEST(Compare, HiddenScoresAreHiddenInBothAndCountNoFurther) {
  const xt::xarray<float> want = {1, 2, kLowest, kLowest};
  EXPECT_EQ(compare(want, want, 1e-5).relative_rms, 0);
  const auto rounded = std::ldexp(-255.0F, 120);  // bfloat16's lowest
  EXPECT_EQ(compare({1, 2, rounded, rounded}, want, 1e-5).relative_rms, 0);
  const auto seen = compare({1, 2, 0, kLowest}, want, 1e-5);
  EXPECT_EQ(seen.relative_rms, kInfinity);
  EXPECT_EQ(seen.first_bad, (Index{2}));
  EXPECT_EQ(compare({1, kLowest, kLowest, kLowest}, want, 1e-5).first_bad, (Index{1}));
}

TEST(Compare, WholeNumbersDifferAtAnIndexOrNowhere) {
  const xt::xarray<std::int64_t> want = {{1, 2}, {3, 4}};
  EXPECT_EQ(first_difference(want, want), std::nullopt);
  EXPECT_EQ(first_difference({{1, 2}, {5, 4}}, want), (Index{1, 0}));
}

TEST(Compare, KlIsTheSumOverTheVocabulary) {
  const xt::xarray<float> want = {{0, 1, 2}, {5, 5, 5}}, got = {{0, 1, 2}, {4, 5, 6}};
  double kl = 0;
  double sum = 0;
  for (const double x : {4.0, 5.0, 6.0}) sum += std::exp(x);
  for (const double x : {4.0, 5.0, 6.0})
    kl += (std::log(1.0 / 3) - std::log(std::exp(x) / sum)) / 3;
  EXPECT_NEAR(mean_kl(got, want), kl / 2, 1e-12);
  EXPECT_EQ(mean_kl(want, want), 0);
  const xt::xarray<float> large = {{1000, 1001, 1002}};
  EXPECT_NEAR(mean_kl(large, {{0, 1, 2}}), 0, 1e-12);
  EXPECT_NEAR(log_sum_exp(large)(0), 1002 + std::log(1 + std::exp(-1.0) + std::exp(-2.0)), 1e-9);
}

TEST(Compare, Top1AgreementIsTheShareOfRows) {
  const xt::xarray<float> want = {{0, 1}, {1, 0}, {0, 1}, {0, 1}};
  EXPECT_EQ(top1_agreement({{0, 1}, {0, 1}, {0, 2}, {3, 1}}, want), 0.5);
}

}  // namespace
}  // namespace bezel::verify
