#include "bezel/adapters/checkpoint/text.h"

#include <nlohmann/json.hpp>

namespace bezel::checkpoint {
namespace {

constexpr std::size_t kMaxQuotedBytes = 80;

// JSON's own escaping, because it turns every byte sequence into valid UTF-8 on one line.
std::string escape(std::string_view text) {
  const nlohmann::json value = std::string(text);
  const std::string quoted =
      value.dump(-1, ' ', /*ensure_ascii=*/false, nlohmann::json::error_handler_t::replace);
  return quoted.substr(1, quoted.size() - 2);
}

// Cuts before a character, never inside it.
std::string cut(std::string text, std::size_t max_bytes) {
  if (text.size() <= max_bytes) return text;
  constexpr unsigned kTopBits = 0xC0, kContinuation = 0x80;
  std::size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & kTopBits) == kContinuation) --end;
  return text.substr(0, end) + "...";
}

}  // namespace

std::string printable(std::string_view text, std::size_t max_bytes) {
  // No byte shrinks when it is escaped, so what lies beyond the cut need not be looked at.
  constexpr std::size_t kLongestCharacter = 4;
  return cut(escape(text.substr(0, max_bytes + kLongestCharacter)), max_bytes);
}

std::string quote(std::string_view text) { return '"' + printable(text, kMaxQuotedBytes) + '"'; }

std::string show(const std::filesystem::path& path) { return escape(path.native()); }

std::string describe(const nlohmann::json& value) {
  if (value.is_string()) return quote(value.get_ref<const std::string&>()) + " (string)";
  if (value.is_number_integer()) return value.dump() + " (integer)";
  if (value.is_number()) return value.dump() + " (number)";
  if (value.is_boolean()) return value.dump() + " (boolean)";
  if (value.is_array()) return "an array of " + std::to_string(value.size());
  if (value.is_object()) return "an object of " + std::to_string(value.size());
  return "null";
}

}  // namespace bezel::checkpoint
