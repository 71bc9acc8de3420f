#include "bezel/verify/text_statistics.h"

#include <algorithm>
#include <set>

namespace bezel::verify {
namespace {

double distinct(const Rows& rows, std::size_t n) {
  std::size_t n_all = 0, n_different = 0;
  for (const auto& row : rows) {
    std::set<std::vector<std::int64_t>> seen;
    for (auto end = row.begin(); row.end() - end >= static_cast<std::ptrdiff_t>(n); ++end) {
      seen.emplace(end, end + static_cast<std::ptrdiff_t>(n));
      ++n_all;
    }
    n_different += seen.size();
  }
  return n_all == 0 ? 1.0 : static_cast<double>(n_different) / static_cast<double>(n_all);
}

double repetition(const Rows& rows) {
  std::size_t n_all = 0, n_repeated = 0;
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::size_t first = i - std::min(i, kRepeatedWithinTokens);
      const auto end = row.begin() + static_cast<std::ptrdiff_t>(i);
      if (std::find(row.begin() + static_cast<std::ptrdiff_t>(first), end, row[i]) != end) {
        ++n_repeated;
      }
    }
    n_all += row.size();
  }
  return n_all == 0 ? 0.0 : static_cast<double>(n_repeated) / static_cast<double>(n_all);
}

}  // namespace

TextStatistics text_statistics(const Rows& rows) {
  return {repetition(rows), distinct(rows, 1), distinct(rows, 2), distinct(rows, 3)};
}

}  // namespace bezel::verify
