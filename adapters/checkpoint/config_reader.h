// Typed, checked access to one JSON object: every refusal names file, field, found and expected.
//
//   const nlohmann::json config = read_config(folder);
//   const ConfigReader top(config, "config.json");
//   const ConfigReader text = top.object("text_config");
//   text.integer("hidden_size", 1, 65536);
//
// throws FormatError: config.json: text_config.hidden_size: found "x" (string), expected an
// integer in 1..65536
//
// A field that is null counts as absent, as in the files that transformers writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bezel::checkpoint {

class ConfigReader {
 public:
  /// Reads `object`, which must outlive the reader. `file` starts every message, `path` is the
  /// dotted path of `object` inside the file (empty at the top). FormatError if it is no object.
  ConfigReader(const nlohmann::json& object, std::string file, std::string path = "");
  ConfigReader(nlohmann::json&&, std::string, std::string = "") = delete;

  const nlohmann::json& json() const { return *object_; }

  /// True if `key` is there and not null.
  bool has(std::string_view key) const;
  /// The keys of this object, sorted, nulls left out.
  std::vector<std::string> keys() const;

  /// An integer in min..max. 1.0, true and "1" are not integers.
  std::int64_t integer(std::string_view key, std::int64_t min, std::int64_t max) const;
  std::int64_t integer_or(std::string_view key, std::int64_t absent, std::int64_t min,
                          std::int64_t max) const;
  std::optional<std::int64_t> optional_integer(std::string_view key, std::int64_t min,
                                               std::int64_t max) const;

  /// A finite number in min..max; integers count.
  double number(std::string_view key, double min = -kInfinity, double max = kInfinity) const;
  double number_or(std::string_view key, double absent, double min = -kInfinity,
                   double max = kInfinity) const;
  std::optional<double> optional_number(std::string_view key, double min = -kInfinity,
                                        double max = kInfinity) const;

  bool boolean(std::string_view key) const;
  bool boolean_or(std::string_view key, bool absent) const;
  std::optional<bool> optional_boolean(std::string_view key) const;

  std::string string(std::string_view key) const;
  std::string string_or(std::string_view key, std::string_view absent) const;
  std::optional<std::string> optional_string(std::string_view key) const;

  /// The object at `key`, with its path extended for the messages.
  ConfigReader object(std::string_view key) const;
  std::optional<ConfigReader> optional_object(std::string_view key) const;

  /// An array of strings, of integers in min..max.
  std::vector<std::string> strings(std::string_view key) const;
  std::optional<std::vector<std::string>> optional_strings(std::string_view key) const;
  std::vector<std::int64_t> integers(std::string_view key, std::int64_t min,
                                     std::int64_t max) const;

  /// One integer or an array of them ("eos_token_id": 1 or [1, 106]); empty when absent.
  std::vector<std::int64_t> one_or_many_integers(std::string_view key, std::int64_t min,
                                                 std::int64_t max) const;

  /// Throws FormatError "<file>: <path>: found <value>, expected <expected>".
  [[noreturn]] void refuse(std::string_view key, std::string_view expected) const;
  /// Throws UnsupportedError in the same form: a valid value that bezel does not compute.
  [[noreturn]] void unsupported(std::string_view key, std::string_view expected) const;

 private:
  static constexpr double kInfinity = std::numeric_limits<double>::infinity();

  const nlohmann::json* find(std::string_view key) const;  // nullptr if absent or null
  /// The elements of an array, converted; `of` says what they must be.
  template <class Value, class Convert>
  std::vector<Value> array(std::string_view key, const std::string& of,
                           const Convert& convert) const;
  std::string path_of(std::string_view key) const;  // "text_config.hidden_size"
  std::string message(std::string_view key, std::string_view expected) const;

  const nlohmann::json* object_;
  std::string file_;
  std::string path_;
};

}  // namespace bezel::checkpoint
