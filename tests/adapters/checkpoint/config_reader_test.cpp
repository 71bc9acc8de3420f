#include "bezel/adapters/checkpoint/config_reader.h"

#include <gtest/gtest.h>

#include <limits>

#include "bezel/adapters/checkpoint/json.h"
#include "bezel/hooks/error.h"
#include "support.h"

namespace bezel::checkpoint {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A field that is read: the text of the object, what reads it.
using Read = void (*)(const ConfigReader&);

// Reads {"text": {"a": <input>}} or, for the input "", {"text": {}}.
void expect_a_refused(const std::vector<Case>& cases, Read read) {
  expect_refusals(cases, "config.json", [&](const std::string& value) {
    const auto json =
        parse_json("{\"text\":{" + (value.empty() ? "" : "\"a\":" + value) + "}}", "config.json");
    const ConfigReader top(json, "config.json");
    read(top.object("text"));
  });
}

TEST(ConfigReader, AnIntegerIsAnIntegerInItsRange) {
  const std::string where = "text.a", wanted = "an integer in 2..9";
  expect_a_refused({{"absent", "", where, "nothing", wanted},
                    {"null", "null", where, "nothing", wanted},
                    {"float", "3.0", where, "3.0 (number)", wanted},
                    {"exponent", "3e0", where, "3.0 (number)", wanted},
                    {"fraction", "3.5", where, "3.5 (number)", wanted},
                    {"true", "true", where, "true (boolean)", wanted},
                    {"text", "\"3\"", where, "\"3\" (string)", wanted},
                    {"array", "[3]", where, "an array of 1", wanted},
                    {"object", "{}", where, "an object of 0", wanted},
                    {"below", "1", where, "1 (integer)", wanted},
                    {"above", "10", where, "10 (integer)", wanted},
                    {"negative", "-3", where, "-3 (integer)", wanted},
                    {"2^64+3", "18446744073709551619", where, "1.84", wanted}},
                   [](const ConfigReader& text) { text.integer("a", 2, 9); });
}

TEST(ConfigReader, AnIntegerAboveTheLargestDoesNotWrapIntoTheRange) {
  expect_a_refused(
      {{"2^64-1", "18446744073709551615", "text.a", "18446744073709551615", "an integer"},
       {"2^63", "9223372036854775808", "text.a", "9223372036854775808", "an integer"}},
      [](const ConfigReader& text) {
        text.integer("a", std::numeric_limits<std::int64_t>::min(), 9);
      });
}

TEST(ConfigReader, TheEndsOfARangeBelongToIt) {
  const auto json = parse_json(
      R"({"lo":-9223372036854775808,"hi":9223372036854775807,"two":2,"nine":9,"half":0.5})", "f");
  const ConfigReader reader(json, "f");
  constexpr auto kMin = std::numeric_limits<std::int64_t>::min();
  constexpr auto kMax = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(reader.integer("lo", kMin, kMax), kMin);
  EXPECT_EQ(reader.integer("hi", kMin, kMax), kMax);
  EXPECT_EQ(reader.integer("two", 2, 9), 2);
  EXPECT_EQ(reader.integer("nine", 2, 9), 9);
  EXPECT_EQ(reader.number("half", 0.5, 0.5), 0.5);
  EXPECT_EQ(reader.number("nine", -kInfinity, 9), 9.0);
}

TEST(ConfigReader, ANumberIsAFiniteNumberInItsRange) {
  expect_a_refused({{"absent", "", "text.a", "nothing", "a number"},
                    {"null", "null", "text.a", "nothing", "a number"},
                    {"text", "\"0.5\"", "text.a", "\"0.5\" (string)", "a number"},
                    {"Infinity as text", "\"Infinity\"", "text.a", "\"Infinity\"", "a number"},
                    {"false", "false", "text.a", "false (boolean)", "a number"},
                    {"array", "[0.5]", "text.a", "an array of 1", "a number"}},
                   [](const ConfigReader& text) { text.number("a"); });
  const std::string wanted = "a number, at least 0.0, at most 1.0";
  expect_a_refused({{"absent", "", "text.a", "nothing", wanted},
                    {"below", "-0.001", "text.a", "-0.001 (number)", wanted},
                    {"above", "1.001", "text.a", "1.001 (number)", wanted},
                    {"integer above", "2", "text.a", "2 (integer)", wanted}},
                   [](const ConfigReader& text) { text.number("a", 0, 1); });
  expect_a_refused({{"below", "-1", "text.a", "-1 (integer)", "a number, at least 0.0"}},
                   [](const ConfigReader& text) { text.number_or("a", 1, 0); });
  expect_a_refused({{"above", "1.5", "text.a", "1.5 (number)", "a number, at most 1.0"}},
                   [](const ConfigReader& text) { text.optional_number("a", -kInfinity, 1); });
}

TEST(ConfigReader, ANumberThatNoTextCanSpellIsRefused) {
  const nlohmann::json json = {{"inf", kInfinity}, {"nan", std::nan("")}};
  const ConfigReader reader(json, "f");
  EXPECT_EQ(refusal_of([&] { reader.number("inf"); }).type, "FormatError");
  EXPECT_EQ(refusal_of([&] { reader.number("nan"); }).type, "FormatError");
}

TEST(ConfigReader, OtherKindsAreNotConverted) {
  expect_a_refused({{"absent", "", "text.a", "nothing", "true or false"},
                    {"null", "null", "text.a", "nothing", "true or false"},
                    {"one", "1", "text.a", "1 (integer)", "true or false"},
                    {"text", "\"true\"", "text.a", "\"true\" (string)", "true or false"}},
                   [](const ConfigReader& text) { text.boolean("a"); });
  expect_a_refused({{"absent", "", "text.a", "nothing", "a string"},
                    {"number", "1", "text.a", "1 (integer)", "a string"},
                    {"array", "[\"x\"]", "text.a", "an array of 1", "a string"}},
                   [](const ConfigReader& text) { text.string("a"); });
  expect_a_refused({{"absent", "", "text.a", "nothing", "an object"},
                    {"null", "null", "text.a", "nothing", "an object"},
                    {"array", "[]", "text.a", "an array of 0", "an object"},
                    {"text", "\"{}\"", "text.a", "\"{}\" (string)", "an object"}},
                   [](const ConfigReader& text) { text.object("a"); });
}

TEST(ConfigReader, AnArrayIsRefusedAtTheElementThatIsWrong) {
  const std::string strings = "an array of strings", integers = "an array of integers in 0..9";
  expect_a_refused({{"absent", "", "text.a", "nothing", strings},
                    {"text", "\"x\"", "text.a", "\"x\" (string)", strings},
                    {"number inside", "[\"x\",1]", "text.a[1]", "1 (integer)", strings},
                    {"null inside", "[null]", "text.a[0]", "null", strings}},
                   [](const ConfigReader& text) { text.strings("a"); });
  expect_a_refused({{"absent", "", "text.a", "nothing", integers},
                    {"number", "1", "text.a", "1 (integer)", integers},
                    {"float inside", "[1,2.0]", "text.a[1]", "2.0 (number)", integers},
                    {"above inside", "[1,2,10]", "text.a[2]", "10 (integer)", integers}},
                   [](const ConfigReader& text) { text.integers("a", 0, 9); });
  expect_a_refused({{"text", "\"1\"", "text.a", "\"1\" (string)", "an integer in 0..9"},
                    {"above", "10", "text.a", "10 (integer)", "an integer in 0..9"},
                    {"below inside", "[-1]", "text.a[0]", "-1 (integer)", integers}},
                   [](const ConfigReader& text) { text.one_or_many_integers("a", 0, 9); });
}

TEST(ConfigReader, AFieldThatIsNullCountsAsAbsent) {
  const auto json = parse_json(R"({"n":null})", "f");
  const ConfigReader reader(json, "f");
  for (const char* key : {"n", "none"}) {
    EXPECT_FALSE(reader.has(key));
    EXPECT_EQ(reader.integer_or(key, 7, 0, 1), 7) << "the default need not lie in the range";
    EXPECT_EQ(reader.optional_integer(key, 0, 1), std::nullopt);
    EXPECT_EQ(reader.number_or(key, 0.5), 0.5);
    EXPECT_EQ(reader.optional_number(key), std::nullopt);
    EXPECT_EQ(reader.boolean_or(key, true), true);
    EXPECT_EQ(reader.optional_boolean(key), std::nullopt);
    EXPECT_EQ(reader.string_or(key, "x"), "x");
    EXPECT_EQ(reader.optional_string(key), std::nullopt);
    EXPECT_EQ(reader.optional_strings(key), std::nullopt);
    EXPECT_FALSE(reader.optional_object(key).has_value());
    EXPECT_TRUE(reader.one_or_many_integers(key, 0, 1).empty());
  }
  EXPECT_TRUE(reader.keys().empty());
}

TEST(ConfigReader, AFieldThatIsThereIsReadWhateverTheDefault) {
  const auto json = parse_json(
      R"({"i":0,"d":0.0,"b":false,"s":"","ss":[],"is":[1,2],"o":{"k":null,"z":1,"y":2}})", "f");
  const ConfigReader reader(json, "f");
  EXPECT_EQ(reader.integer_or("i", 7, 0, 9), 0);
  EXPECT_EQ(reader.optional_integer("i", 0, 9), 0);
  EXPECT_EQ(reader.number_or("d", 0.5), 0.0);
  EXPECT_EQ(reader.optional_number("i"), 0.0) << "integers are numbers";
  EXPECT_EQ(reader.boolean_or("b", true), false);
  EXPECT_EQ(reader.optional_boolean("b"), false);
  EXPECT_EQ(reader.string_or("s", "x"), "");
  EXPECT_EQ(reader.optional_string("s"), "");
  EXPECT_EQ(reader.optional_strings("ss"), std::vector<std::string>());
  EXPECT_EQ(reader.integers("is", 0, 9), (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(reader.one_or_many_integers("is", 0, 9), (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(reader.one_or_many_integers("i", 0, 9), (std::vector<std::int64_t>{0}));
  EXPECT_EQ(reader.object("o").keys(), (std::vector<std::string>{"y", "z"}));
  EXPECT_TRUE(reader.optional_object("o").has_value());
}

TEST(ConfigReader, AnOptionalFieldThatIsThereMustBeRight) {
  const std::vector<std::pair<Read, std::string>> reads = {
      {[](const ConfigReader& r) { r.integer_or("a", 1, 0, 1); }, "an integer in 0..1"},
      {[](const ConfigReader& r) { r.optional_integer("a", 0, 1); }, "an integer in 0..1"},
      {[](const ConfigReader& r) { r.number_or("a", 1); }, "a number"},
      {[](const ConfigReader& r) { r.optional_number("a"); }, "a number"},
      {[](const ConfigReader& r) { r.boolean_or("a", true); }, "true or false"},
      {[](const ConfigReader& r) { r.optional_boolean("a"); }, "true or false"},
      {[](const ConfigReader& r) { r.string_or("a", "x"); }, "a string"},
      {[](const ConfigReader& r) { r.optional_string("a"); }, "a string"},
      {[](const ConfigReader& r) { r.optional_strings("a"); }, "an array of strings"}};
  for (const auto& [read, wanted] : reads)
    expect_a_refused({{wanted, "{}", "text.a", "an object of 0", wanted}}, read);
}

TEST(ConfigReader, WhatIsNoObjectHasNoFields) {
  const nlohmann::json json = nlohmann::json::array({1});
  EXPECT_EQ(refusal_of([&] { ConfigReader(json, "config.json"); }).message,
            "config.json: found an array of 1, expected an object");
}

TEST(ConfigReader, AnAdapterRefusesInTheSameForm) {
  const auto json = parse_json("{\"act\":\"relu\",\"a\\nb\":1}", "f");
  const ConfigReader reader(json, "f", "text");
  const Refusal refused = refusal_of([&] { reader.refuse("act", "\"gelu\""); });
  EXPECT_EQ(refused.type, "FormatError");
  EXPECT_EQ(refused.message, "f: text.act: found \"relu\" (string), expected \"gelu\"");
  const Refusal unsupported = refusal_of([&] { reader.unsupported("a\nb", "2"); });
  EXPECT_EQ(unsupported.type, "UnsupportedError");
  EXPECT_EQ(unsupported.message, "f: text.a\\nb: found 1 (integer), expected 2");
}

}  // namespace
}  // namespace bezel::checkpoint
