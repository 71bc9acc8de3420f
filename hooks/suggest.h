// Did you mean …?
#pragma once

#include <string>
#include <vector>

namespace bezel::hooks {

/// The `count` candidates nearest to `word`, nearest first, by edit distance (insert, delete,
/// replace, and exchange of neighbours cost one each). Ties keep the order of the candidates.
std::vector<std::string> nearest(const std::string& word,
                                 const std::vector<std::string>& candidates, std::size_t count);

}  // namespace bezel::hooks
