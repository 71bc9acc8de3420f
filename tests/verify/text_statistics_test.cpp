#include "bezel/verify/text_statistics.h"

#include <gtest/gtest.h>

namespace bezel::verify {
namespace {

std::vector<std::int64_t> counted(std::int64_t first, std::int64_t n) {
  std::vector<std::int64_t> row;
  for (std::int64_t i = 0; i < n; ++i) row.push_back(first + i);
  return row;
}

TEST(TextStatistics, NothingRepeatsInATextOfDifferentTokens) {
  const auto statistics = text_statistics({counted(0, 30)});
  EXPECT_EQ(statistics.repetition, 0);
  EXPECT_EQ(statistics.distinct_1, 1);
  EXPECT_EQ(statistics.distinct_3, 1);
  EXPECT_FALSE(statistics.is_loop());
}

TEST(TextStatistics, ALoopRepeatsAllButItsFirstTurn) {
  const auto statistics = text_statistics({{7, 8, 7, 8, 7, 8, 7, 8}});
  EXPECT_DOUBLE_EQ(statistics.repetition, 6.0 / 8);
  EXPECT_DOUBLE_EQ(statistics.distinct_1, 2.0 / 8);
  EXPECT_DOUBLE_EQ(statistics.distinct_2, 2.0 / 7);
  EXPECT_DOUBLE_EQ(statistics.distinct_3, 2.0 / 6);
  EXPECT_TRUE(statistics.is_loop());
}

TEST(TextStatistics, ATokenIsRepeatedByThoseShortlyBeforeItAlone) {
  const auto at_distance = [](std::int64_t n) {
    auto row = counted(0, n);
    row.push_back(0);
    return text_statistics({row}).repetition;
  };
  EXPECT_GT(at_distance(kRepeatedWithinTokens), 0);
  EXPECT_EQ(at_distance(kRepeatedWithinTokens + 1), 0);
}

TEST(TextStatistics, RowsAreTextsOfTheirOwn) {
  const auto statistics = text_statistics({{1, 2, 3}, {1, 2, 3}});
  EXPECT_EQ(statistics.repetition, 0);
  EXPECT_EQ(statistics.distinct_2, 1);
}

TEST(TextStatistics, NoTextRepeatsNothing) {
  const auto statistics = text_statistics({{}, {5}});
  EXPECT_EQ(statistics.repetition, 0);
  EXPECT_EQ(statistics.distinct_2, 1);
  EXPECT_FALSE(text_statistics({}).is_loop());
}

}  // namespace
}  // namespace bezel::verify
