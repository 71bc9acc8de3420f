#include "bezel/adapters/checkpoint/config_reader.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "bezel/adapters/checkpoint/text.h"
#include "bezel/hooks/error.h"

namespace bezel::checkpoint {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxKeyBytes = 80;  // of a key, in a message

std::string range(std::int64_t min, std::int64_t max) {
  return std::to_string(min) + ".." + std::to_string(max);
}

std::string number_in(double min, double max) {
  std::string text = "a number";
  if (std::isfinite(min)) text += ", at least " + Json(min).dump();
  if (std::isfinite(max)) text += ", at most " + Json(max).dump();
  return text;
}

std::optional<std::int64_t> as_integer(const Json& value, std::int64_t min, std::int64_t max) {
  if (!value.is_number_integer()) return std::nullopt;
  // The parser keeps what exceeds int64 as unsigned.
  if (value.is_number_unsigned() && !std::in_range<std::int64_t>(value.get<std::uint64_t>()))
    return std::nullopt;
  const auto number = value.get<std::int64_t>();
  if (number < min || number > max) return std::nullopt;
  return number;
}

}  // namespace

ConfigReader::ConfigReader(const Json& object, std::string file, std::string path)
    : object_(&object), file_(std::move(file)), path_(std::move(path)) {
  if (!object.is_object())
    throw FormatError(file_ + ": " + (path_.empty() ? "" : path_ + ": ") + "found " +
                      describe(object) + ", expected an object");
}

std::string ConfigReader::path_of(std::string_view key) const {
  return (path_.empty() ? "" : path_ + ".") + printable(key, kMaxKeyBytes);
}

const Json* ConfigReader::find(std::string_view key) const {
  const auto found = object_->find(key);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

bool ConfigReader::has(std::string_view key) const { return find(key) != nullptr; }

std::vector<std::string> ConfigReader::keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object_->items())
    if (!value.is_null()) keys.push_back(key);
  return keys;
}

std::string ConfigReader::message(std::string_view key, std::string_view expected) const {
  const Json* value = find(key);
  return file_ + ": " + path_of(key) + ": found " + (value ? describe(*value) : "nothing") +
         ", expected " + std::string(expected);
}

void ConfigReader::refuse(std::string_view key, std::string_view expected) const {
  throw FormatError(message(key, expected));
}

void ConfigReader::unsupported(std::string_view key, std::string_view expected) const {
  throw UnsupportedError(message(key, expected));
}

std::int64_t ConfigReader::integer(std::string_view key, std::int64_t min, std::int64_t max) const {
  const Json* value = find(key);
  const auto number = value ? as_integer(*value, min, max) : std::nullopt;
  if (!number) refuse(key, "an integer in " + range(min, max));
  return *number;
}

std::int64_t ConfigReader::integer_or(std::string_view key, std::int64_t absent, std::int64_t min,
                                      std::int64_t max) const {
  return has(key) ? integer(key, min, max) : absent;
}

std::optional<std::int64_t> ConfigReader::optional_integer(std::string_view key, std::int64_t min,
                                                           std::int64_t max) const {
  return has(key) ? std::optional(integer(key, min, max)) : std::nullopt;
}

double ConfigReader::number(std::string_view key, double min, double max) const {
  const Json* value = find(key);
  const auto number = value && value->is_number() ? value->get<double>() : kInfinity;
  if (!std::isfinite(number) || number < min || number > max) refuse(key, number_in(min, max));
  return number;
}

double ConfigReader::number_or(std::string_view key, double absent, double min, double max) const {
  return has(key) ? number(key, min, max) : absent;
}

std::optional<double> ConfigReader::optional_number(std::string_view key, double min,
                                                    double max) const {
  return has(key) ? std::optional(number(key, min, max)) : std::nullopt;
}

bool ConfigReader::boolean(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr || !value->is_boolean()) refuse(key, "true or false");
  return value->get<bool>();
}

bool ConfigReader::boolean_or(std::string_view key, bool absent) const {
  return has(key) ? boolean(key) : absent;
}

std::optional<bool> ConfigReader::optional_boolean(std::string_view key) const {
  return has(key) ? std::optional(boolean(key)) : std::nullopt;
}

std::string ConfigReader::string(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr || !value->is_string()) refuse(key, "a string");
  return value->get<std::string>();
}

std::string ConfigReader::string_or(std::string_view key, std::string_view absent) const {
  return has(key) ? string(key) : std::string(absent);
}

std::optional<std::string> ConfigReader::optional_string(std::string_view key) const {
  return has(key) ? std::optional(string(key)) : std::nullopt;
}

ConfigReader ConfigReader::object(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) refuse(key, "an object");
  return ConfigReader(*value, file_, path_of(key));
}

std::optional<ConfigReader> ConfigReader::optional_object(std::string_view key) const {
  return has(key) ? std::optional(object(key)) : std::nullopt;
}

template <class Value, class Convert>
std::vector<Value> ConfigReader::array(std::string_view key, const std::string& of,
                                       const Convert& convert) const {
  const Json* value = find(key);
  if (value == nullptr || !value->is_array()) refuse(key, "an array of " + of);
  std::vector<Value> elements;
  for (std::size_t i = 0; i < value->size(); ++i) {
    std::optional<Value> element = convert((*value)[i]);
    if (!element)
      throw FormatError(file_ + ": " + path_of(key) + "[" + std::to_string(i) + "]: found " +
                        describe((*value)[i]) + ", expected an array of " + of);
    elements.push_back(*std::move(element));
  }
  return elements;
}

std::vector<std::string> ConfigReader::strings(std::string_view key) const {
  return array<std::string>(key, "strings", [](const Json& element) {
    return element.is_string() ? std::optional(element.get<std::string>()) : std::nullopt;
  });
}

std::optional<std::vector<std::string>> ConfigReader::optional_strings(std::string_view key) const {
  return has(key) ? std::optional(strings(key)) : std::nullopt;
}

std::vector<std::int64_t> ConfigReader::integers(std::string_view key, std::int64_t min,
                                                 std::int64_t max) const {
  return array<std::int64_t>(key, "integers in " + range(min, max),
                             [&](const Json& element) { return as_integer(element, min, max); });
}

std::vector<std::int64_t> ConfigReader::one_or_many_integers(std::string_view key, std::int64_t min,
                                                             std::int64_t max) const {
  const Json* value = find(key);
  if (value == nullptr) return {};
  if (value->is_array()) return integers(key, min, max);
  return {integer(key, min, max)};
}

}  // namespace bezel::checkpoint
