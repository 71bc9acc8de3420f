#include "bezel/adapters/checkpoint/json.h"

#include <iterator>
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

// Counts what the parser has read, because its callbacks do not say where they are.
struct CountingIterator {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at;
  std::size_t* n_read;

  reference operator*() const { return *at; }
  CountingIterator& operator++() {
    ++at;
    ++*n_read;
    return *this;
  }
  bool operator==(const CountingIterator& other) const { return at == other.at; }
};

// Builds the value and throws as soon as a limit is passed.
class BoundedBuilder {
 public:
  BoundedBuilder(const std::string& what, const JsonLimits& limits)
      : what_(what), limits_(limits) {}

  json take() { return std::move(root_); }
  std::size_t* n_read() { return &n_read_; }

  bool null() { return add(nullptr), true; }
  bool boolean(bool value) { return add(value), true; }
  bool number_integer(json::number_integer_t value) { return add(value), true; }
  bool number_unsigned(json::number_unsigned_t value) { return add(value), true; }
  bool number_float(json::number_float_t value, const std::string&) { return add(value), true; }
  bool string(std::string& value) {
    check_string(value);
    return add(std::move(value)), true;
  }
  bool binary(json::binary_t&) { return false; }  // JSON text has none
  bool start_object(std::size_t) { return open(json::object()), true; }
  bool start_array(std::size_t) { return open(json::array()), true; }
  bool end_object() { return stack_.pop_back(), true; }
  bool end_array() { return stack_.pop_back(), true; }
  bool key(std::string& name) {
    check_string(name);
    auto& object = stack_.back()->get_ref<json::object_t&>();
    const auto [slot, is_new] = object.try_emplace(name);
    if (!is_new) throw FormatError(here() + "key " + quote(name) + " twice in one object");
    slot_ = &slot->second;
    return true;
  }
  [[noreturn]] bool parse_error(std::size_t byte, const std::string&,
                                const json::exception& error) {
    n_read_ = byte;
    std::string_view reason = error.what();
    if (const auto end = reason.find("] "); end != reason.npos) reason.remove_prefix(end + 2);
    throw FormatError(here() + "not JSON: " + printable(reason, kMaxParserMessageBytes));
  }

 private:
  std::string here() const { return what_ + ": byte " + std::to_string(n_read_) + ": "; }

  [[noreturn]] void exceed(const std::string& found, std::size_t limit) const {
    throw ResourceLimitError(here() + found + ", the limit is " + std::to_string(limit));
  }

  void check_string(const std::string& text) const {
    if (text.size() > limits_.max_string_bytes)
      exceed("a string of " + std::to_string(text.size()) + " bytes", limits_.max_string_bytes);
  }

  json* add(json value) {
    if (++n_values_ > limits_.max_values) exceed("too many values", limits_.max_values);
    if (stack_.empty()) return &(root_ = std::move(value));
    if (stack_.back()->is_object()) return &(*slot_ = std::move(value));
    auto& array = stack_.back()->get_ref<json::array_t&>();
    return &array.emplace_back(std::move(value));
  }

  void open(json container) {
    if (stack_.size() == limits_.max_depth) exceed("nested too deeply", limits_.max_depth);
    stack_.push_back(add(std::move(container)));
  }

  const std::string& what_;
  const JsonLimits& limits_;
  json root_;
  std::vector<json*> stack_;  // the open containers, outermost first
  json* slot_ = nullptr;      // where the value of the last key goes
  std::size_t n_values_ = 0;
  std::size_t n_read_ = 0;
};

void check_size(std::uint64_t bytes, const std::string& what, const JsonLimits& limits) {
  if (bytes > limits.max_bytes)
    throw ResourceLimitError(what + ": " + std::to_string(bytes) + " bytes of JSON, the limit is " +
                             std::to_string(limits.max_bytes));
}

}  // namespace

nlohmann::json parse_json(std::string_view text, const std::string& what,
                          const JsonLimits& limits) {
  check_size(text.size(), what, limits);
  // The parser takes a NUL for the end of the text and would not see what follows it.
  if (const auto nul = text.find('\0'); nul != text.npos)
    throw FormatError(what + ": byte " + std::to_string(nul) + ": found NUL, expected JSON text");
  BoundedBuilder builder(what, limits);
  json::sax_parse(CountingIterator{text.data(), builder.n_read()},
                  CountingIterator{text.data() + text.size(), builder.n_read()}, &builder);
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
