// Any bytes as config.json. What is accepted is what a second parser reads; what is refused as
// malformed, that parser refuses too; every field is read as its kind and range demand or refused.
#include <cmath>

#include "bezel/adapters/checkpoint/config_reader.h"
#include "bezel/adapters/checkpoint/json.h"
#include "bezel/hooks/error.h"
#include "tests/fuzz/check.h"

namespace bezel::fuzz {
namespace {

using checkpoint::ConfigReader;
using nlohmann::json;

// Whether reading a field gave a value; a refusal must be clear.
template <class Read>
bool reads(const Read& read) {
  try {
    read();
    return true;
  } catch (const FormatError& error) {
    require_clear(error.what(), "file");
    return false;
  }
}

void check_fields(const ConfigReader& reader) {
  constexpr std::int64_t kMin = -3, kMax = 4096;
  for (const std::string& key : reader.keys()) {
    const json& value = reader.json().at(key);
    const double number = value.is_number() ? value.get<double>() : std::nan("");
    const bool is_integer = value.is_number_integer() && number >= kMin && number <= kMax;
    require(reads([&] { require(reader.integer(key, kMin, kMax) == value, "integer", key); }) ==
                is_integer,
            "integers in their range and nothing else", key);
    require(reads([&] { require(reader.number(key, 0, 1e6) == number, "number", key); }) ==
                (number >= 0 && number <= 1e6),
            "numbers in their range and nothing else", key);
    require(reads([&] { reader.boolean(key); }) == value.is_boolean(), "booleans", key);
    require(reads([&] { reader.string(key); }) == value.is_string(), "strings", key);
    reads([&] { require(json(reader.strings(key)) == value, "array of strings", key); });
    reads([&] {
      require(json(reader.integers(key, kMin, kMax)) == value, "array of integers", key);
    });
    reads([&] { check_fields(reader.object(key)); });
  }
}

bool is_refused_on_purpose(const std::string& message) {
  for (const char* reason : {"it twice in one object", "a NUL byte", "a byte order mark"})
    if (message.find(reason) != message.npos) return true;
  return false;
}

void run(std::string_view text) {
  try {
    const json config = checkpoint::parse_json(text, "file");
    require(config == json::parse(text), "the value as it is written", text);
    if (config.is_object()) check_fields(ConfigReader(config, "file"));
  } catch (const FormatError& error) {
    require_clear(error.what(), "file");
    require(!json::accept(text) || is_refused_on_purpose(error.what()), "it is malformed", text);
  } catch (const ResourceLimitError& error) {
    require_clear(error.what(), "file");
  }
}

}  // namespace
}  // namespace bezel::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bezel::fuzz::run(bezel::fuzz::as_text(data, size));
  return 0;
}
