// The table of tolerances: each is scaled by --strict, factors towards 1.
#include "bezel/verify/tolerances.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "bezel/hooks/error.h"

namespace bezel::verify {
namespace {

// Every member is a double.
std::vector<double> numbers(const Tolerances& tolerances) {
  std::vector<double> numbers(sizeof(Tolerances) / sizeof(double));
  std::memcpy(numbers.data(), &tolerances, sizeof(Tolerances));
  return numbers;
}

TEST(TolerancesTest, EachIsScaledAndAFactorTowardsOne) {
  for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const auto device : {at::kCPU, at::kCUDA}) {
      const auto whole = numbers(tolerances(dtype, device));
      const auto tenth = numbers(tolerances(dtype, device, 0.1));
      for (std::size_t i = 0; i < whole.size(); ++i) {
        const double want = whole[i] >= 1 ? 1 + (whole[i] - 1) * 0.1 : whole[i] * 0.1;
        EXPECT_DOUBLE_EQ(tenth[i], want) << dtype << " " << i;
      }
    }
  }
}

TEST(TolerancesTest, OfBfloat16AreMeasuredByTheReferencesOwnError) {
  EXPECT_EQ(tolerances(at::kBFloat16, at::kCPU).times_reference, 2);
  EXPECT_EQ(tolerances(at::kBFloat16, at::kCPU, 0.5).times_reference, 1.5);
}

TEST(TolerancesTest, WhatHasNoneIsRefused) {
  EXPECT_THROW(tolerances(at::kHalf, at::kCPU), ArgumentError);
  EXPECT_THROW(tolerances(at::kFloat, at::kMeta), ArgumentError);
}

}  // namespace
}  // namespace bezel::verify
