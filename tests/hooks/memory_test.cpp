#include "bezel/hooks/memory.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "bezel/hooks/allocator.h"

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

TEST(Memory, FreedMemoryIsKeptForTheNextRunOnceThatIsAskedFor) {
  keep_freed(std::int64_t{1} << 30);
  if (held_bytes() == 0) GTEST_SKIP() << "this C library says nothing of its memory";
  constexpr std::size_t kBlock = std::size_t{8} << 20;
  std::vector<std::unique_ptr<char[]>> blocks;
  for (int i = 0; i < 16; ++i) blocks.push_back(std::make_unique<char[]>(kBlock));
  const auto before = held_bytes();
  blocks.clear();
  EXPECT_GE(held_bytes() - before, static_cast<std::int64_t>(15 * kBlock));
}

}  // namespace
}  // namespace bezel::hooks
