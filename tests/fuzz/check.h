// What the fuzz targets hold against the readers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

namespace bezel::fuzz {

/// A claim that does not hold. No reader throws this, so it ends the program.
class Broken : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

/// `claim` holds for `what`.
inline void require(bool holds, std::string_view claim, std::string_view what) {
  if (!holds) throw Broken(std::string(claim) + ": " + std::string(what));
}

inline std::string_view as_text(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// A refusal names the file, what was found and what was expected, in one bounded line of UTF-8.
inline void require_clear(const std::string& message, const std::string& file) {
  constexpr std::size_t kMaxBytes = 1000;
  const bool has_control = std::ranges::any_of(message, [](unsigned char c) { return c < ' '; });
  require(message.starts_with(file + ": "), "names the file", message);
  require(message.find("found ") != message.npos, "says what was found", message);
  require(message.find(", expected ") != message.npos, "says what was expected", message);
  require(message.size() < kMaxBytes, "is short", message);
  require(!has_control, "has no control characters", message);
  static_cast<void>(nlohmann::json(message).dump());  // throws if it is not UTF-8
}

}  // namespace bezel::fuzz
