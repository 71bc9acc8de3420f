#include "bezel/adapters/checkpoint/json.h"

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "bezel/adapters/checkpoint/model_file.h"
#include "bezel/adapters/checkpoint/text.h"
#include "bezel/hooks/error.h"

namespace bezel::checkpoint {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxParserMessageBytes = 200;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

[[noreturn]] void refuse(const std::string& what, std::size_t byte, const std::string& found) {
  throw FormatError(what + ": byte " + std::to_string(byte) + ": found " + found +
                    ", expected JSON");
}

[[noreturn]] void exceed(const std::string& what, const std::string& found, std::size_t limit) {
  throw ResourceLimitError(what + ": found " + found + ", expected at most " +
                           std::to_string(limit));
}

// Builds the value and throws as soon as a limit is passed.
class BoundedBuilder {
 public:
  BoundedBuilder(const std::string& what, const JsonLimits& limits)
      : what_(what), limits_(limits) {}

  json take() { return std::move(root_); }

  bool null() { return add(nullptr), true; }
  bool boolean(bool value) { return add(value), true; }
  bool number_integer(json::number_integer_t value) { return add(value), true; }
  bool number_unsigned(json::number_unsigned_t value) { return add(value), true; }
  bool number_float(json::number_float_t value, const std::string&) { return add(value), true; }
  bool string(std::string& value) { return add(std::move(value)), true; }
  bool binary(json::binary_t&) { return false; }  // JSON text has none
  bool start_object(std::size_t) { return open(json::object()), true; }
  bool start_array(std::size_t) { return open(json::array()), true; }
  bool end_object() { return stack_.pop_back(), true; }
  bool end_array() { return stack_.pop_back(), true; }
  bool key(std::string& name) {
    auto& object = stack_.back()->get_ref<json::object_t&>();
    const auto [slot, is_new] = object.try_emplace(name);
    if (!is_new)
      throw FormatError(what_ + ": key " + quote(name) +
                        ": found it twice in one object, expected it once");
    slot_ = &slot->second;
    return true;
  }
  [[noreturn]] bool parse_error(std::size_t byte, const std::string&,
                                const json::exception& error) {
    std::string_view reason = error.what();  // "[json.exception.parse_error.101] parse error at …"
    if (const auto end = reason.find("] "); end != reason.npos) reason.remove_prefix(end + 2);
    refuse(what_, byte, "malformed text (" + printable(reason, kMaxParserMessageBytes) + ")");
  }

 private:
  json* add(json value) {
    if (++n_values_ > limits_.max_values) exceed(what_, "too many values", limits_.max_values);
    if (stack_.empty()) return &(root_ = std::move(value));
    if (stack_.back()->is_object()) return &(*slot_ = std::move(value));
    auto& array = stack_.back()->get_ref<json::array_t&>();
    return &array.emplace_back(std::move(value));
  }

  void open(json container) {
    if (stack_.size() == limits_.max_depth)
      exceed(what_, "too many nested arrays and objects", limits_.max_depth);
    stack_.push_back(add(std::move(container)));
  }

  const std::string& what_;
  const JsonLimits& limits_;
  json root_;
  std::vector<json*> stack_;  // the open containers, outermost first
  json* slot_ = nullptr;      // where the value of the last key goes
  std::size_t n_values_ = 0;
};

void check_size(std::uint64_t bytes, const std::string& what, const JsonLimits& limits) {
  if (bytes > limits.max_bytes)
    exceed(what, std::to_string(bytes) + " bytes of JSON", limits.max_bytes);
}

}  // namespace

nlohmann::json parse_json(std::string_view text, const std::string& what,
                          const JsonLimits& limits) {
  check_size(text.size(), what, limits);
  // The parser takes a NUL for the end of the text and would not see what follows it.
  if (const auto nul = text.find('\0'); nul != text.npos) refuse(what, nul + 1, "a NUL byte");
  // The parser would skip it; the reference implementations refuse it.
  if (text.starts_with(kByteOrderMark)) refuse(what, 1, "a byte order mark");
  BoundedBuilder builder(what, limits);
  json::sax_parse(text, &builder);
  return builder.take();
}

nlohmann::json read_json_file(const std::filesystem::path& path, const JsonLimits& limits) {
  const ModelFile file = ModelFile::open(path);
  check_size(file.size(), show(path), limits);
  std::string text(file.size(), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(text)));
  return parse_json(text, show(path), limits);
}

}  // namespace bezel::checkpoint
