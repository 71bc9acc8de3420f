// What stands beside a group or a dataset.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace bezel::store {

/// Written: a bool as int8, numbers in 64 bits, a text in its own length. Read: every whole number
/// is an int64.
using Attribute = std::variant<bool, std::int64_t, double, std::string, std::vector<std::int64_t>>;

}  // namespace bezel::store
