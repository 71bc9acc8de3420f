#include "bezel/hooks/memory.h"

#include <gtest/gtest.h>

namespace bezel::hooks {
namespace {

TEST(Memory, TheHostHasSomeAndLessThanAnExbibyte) {
  const auto free = free_bytes(at::kCPU);
  if (!free) GTEST_SKIP() << "this system does not say";
  EXPECT_GT(*free, std::int64_t{1} << 20);
  EXPECT_LT(*free, std::int64_t{1} << 60);
}

TEST(Memory, NobodySaysForADeviceThatHoldsNothing) {
  EXPECT_EQ(free_bytes(at::kMeta), std::nullopt);
}

}  // namespace
}  // namespace bezel::hooks
