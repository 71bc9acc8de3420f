// How much a text repeats itself, in numbers that tell a loop from prose.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace bezel::verify {

using Rows = std::vector<std::vector<std::int64_t>>;  // token ids, of one text each

/// A token counts as repeated when it is one of this many before it.
inline constexpr std::size_t kRepeatedWithinTokens = 16;

struct TextStatistics {
  double repetition = 0;  // share of tokens that are repeated
  /// Different n-grams of a row over all its n-grams; 1 where there are none.
  double distinct_1 = 1, distinct_2 = 1, distinct_3 = 1;

  /// Little new comes: half of the pairs of neighbours at most are new ones.
  bool is_loop() const { return distinct_2 <= 0.5; }
};

/// Over all rows together: shares of the sums of what is counted in each.
TextStatistics text_statistics(const Rows& rows);

}  // namespace bezel::verify
