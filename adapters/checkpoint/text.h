// Text of untrusted files made safe for messages: valid UTF-8, no control characters, bounded.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace bezel::checkpoint {

/// `text` as a JSON string in double quotes, cut after about 80 bytes; bad UTF-8 is replaced.
std::string quote(std::string_view text);

/// `text` without quotes, escaped as quote() does and cut after `max_bytes`.
std::string printable(std::string_view text, std::size_t max_bytes);

/// A path as messages write it: escaped, whole.
std::string show(const std::filesystem::path& path);

/// What a message says it found: "x" (string), 0.5 (number), an array of 3, an object of 2, null.
std::string describe(const nlohmann::json& value);

}  // namespace bezel::checkpoint
