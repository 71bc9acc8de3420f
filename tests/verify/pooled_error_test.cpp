#include "bezel/verify/pooled_error.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace bezel::verify {
namespace {

TEST(PooledErrorTest, IsTheRatioOfWhatTheRunsSumUpTo) {
  PooledError pooled;
  EXPECT_TRUE(pooled.is_empty());
  pooled.take(3, 1, "a", {});
  pooled.take(4, 2, "b", {});
  EXPECT_FALSE(pooled.is_empty());
  EXPECT_DOUBLE_EQ(pooled.ratio(), 5 / std::sqrt(5.0));
}

TEST(PooledErrorTest, AFailureIsToldOfTheRunThatIsFurthestOff) {
  PooledError pooled;
  pooled.take(1, 1, "a", {1});
  pooled.take(9, 1, "b", {2, 3});
  pooled.take(10, 2, "c", {4});
  const auto check = pooled.check("name", 2, "times");
  EXPECT_EQ(check.verdict(), Verdict::kFailed);
  EXPECT_EQ(check.why, "most in b");
  EXPECT_EQ(check.place, (std::vector<std::size_t>{2, 3}));
  EXPECT_TRUE(pooled.check("name", 100, "times").place.empty());
}

TEST(PooledErrorTest, WhatIsExactAllowsNoError) {
  PooledError exact;
  exact.take(0, 0, "a", {});
  EXPECT_EQ(exact.ratio(), 0);
  exact.take(1e-9, 0, "b", {});
  EXPECT_EQ(exact.ratio(), std::numeric_limits<double>::infinity());
}

TEST(PooledErrorTest, WhatIsNotFiniteNeverPasses) {
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    PooledError pooled;
    pooled.take(1, 1, "a", {});
    pooled.take(bad, 1, "b", {});
    const auto check = pooled.check("name", 1e9, "times");
    EXPECT_EQ(check.verdict(), Verdict::kFailed);
    EXPECT_EQ(check.why, "most in b");
  }
}

}  // namespace
}  // namespace bezel::verify
