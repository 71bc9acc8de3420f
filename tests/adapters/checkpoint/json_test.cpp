#include "bezel/adapters/checkpoint/json.h"

#include <gtest/gtest.h>

#include "bezel/hooks/error.h"
#include "support.h"

namespace bezel::checkpoint {
namespace {

std::string nested(std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

constexpr JsonLimits kSmall = {.max_bytes = 64, .max_depth = 3, .max_values = 5};

TEST(Json, WhatTheParserReadsIsWhatTheTextSays) {
  const auto json = parse_json(
      " \n\t{\"a\": [1, -2, 0.5, true, null, \"\\u00e9\\n\"], \"b\": {\"c\": {}}, "
      "\"big\": 18446744073709551615, \"\": \"\"} \r\n",
      "file");
  EXPECT_EQ(json.size(), 4u);
  EXPECT_EQ(json["a"].size(), 6u);
  EXPECT_EQ(json["a"][1], -2);
  EXPECT_EQ(json["a"][2], 0.5);
  EXPECT_EQ(json["a"][3], true);
  EXPECT_TRUE(json["a"][4].is_null());
  EXPECT_EQ(json["a"][5], "\xc3\xa9\n");
  EXPECT_TRUE(json["b"]["c"].is_object());
  EXPECT_EQ(json["big"].get<std::uint64_t>(), 18446744073709551615u);
  EXPECT_EQ(json[""], "");
  EXPECT_EQ(parse_json("7", "file"), 7);
}

TEST(Json, SameKeyInTwoObjectsIsNoDuplicate) {
  EXPECT_NO_THROW(parse_json(R"({"a":{"a":1},"b":{"a":[{"a":1},{"a":2}]}})", "file"));
}

TEST(Json, MalformedTextIsRefusedWithFileAndByte) {
  const std::string bad = "malformed text", twice = "it twice in one object";
  const std::vector<Case> cases = {
      {"nothing", "", "byte 1", bad, "JSON"},
      {"blanks", " \n ", "byte 4", bad, "JSON"},
      {"open object", "{", "byte 2", bad, "JSON"},
      {"open array", "[1,2", "byte 5", bad, "JSON"},
      {"open string", "\"abc", "byte 5", bad, "JSON"},
      {"closing only", "}", "byte 1", bad, "JSON"},
      {"wrong closing", "[1}", "byte 3", bad, "JSON"},
      {"trailing comma in array", "[1,]", "byte 4", bad, "JSON"},
      {"trailing comma in object", "{\"a\":1,}", "byte 8", bad, "JSON"},
      {"no colon", "{\"a\" 1}", "byte 6", bad, "JSON"},
      {"no value", "{\"a\":}", "byte 6", bad, "JSON"},
      {"key without quotes", "{a:1}", "byte 2", bad, "JSON"},
      {"number as key", "{1:1}", "byte 2", bad, "JSON"},
      {"text behind the value", "{} {}", "byte 4", bad, "JSON"},
      {"NUL behind the value", std::string("{}\0", 3), "byte 3", "a NUL byte", "JSON"},
      {"NUL and more", std::string("{}\0{", 4), "byte 3", "a NUL byte", "JSON"},
      {"NUL in a string", std::string("\"\0\"", 3), "byte 2", "a NUL byte", "JSON"},
      {"byte order mark", "\xEF\xBB\xBF{}", "byte 1", "a byte order mark", "JSON"},
      {"duplicate key", R"({"a":1,"a":1})", "key \"a\"", twice, "it once"},
      {"duplicate key, escaped", R"({"a":1,"\u0061":1})", "key \"a\"", twice, "it once"},
      {"duplicate key, deep", R"([{"b":{"k":[],"k":0}}])", "key \"k\"", twice, "it once"},
      {"duplicate null key", R"({"a":null,"a":1})", "key \"a\"", twice, "it once"},
      {"duplicate empty key", R"({"":1,"":1})", "key \"\"", twice, "it once"},
      {"NaN", "[NaN]", "byte 2", bad, "JSON"},
      {"Infinity", "{\"a\":Infinity}", "byte 6", bad, "JSON"},
      {"minus Infinity", "[-Infinity]", "byte 3", bad, "JSON"},
      {"beyond double", "[1e999]", "byte 6", bad + " (number overflow", "JSON"},
      {"leading zero", "[01]", "byte 3", bad, "JSON"},
      {"plus", "[+1]", "byte 2", bad, "JSON"},
      {"hex", "[0x10]", "byte 3", bad, "JSON"},
      {"point only", "[1.]", "byte 4", bad, "JSON"},
      {"single quotes", "{'a':1}", "byte 2", bad, "JSON"},
      {"comment", "{}// no", "byte 3", bad, "JSON"},
      {"True", "[True]", "byte 2", bad, "JSON"},
      {"control character", "\"a\x01\"", "byte 3", bad, "JSON"},
      {"line break in a string", "\"a\nb\"", "byte 3", bad, "JSON"},
      {"unknown escape", R"("\x41")", "byte 3", bad, "JSON"},
      {"lone surrogate", R"("\ud800")", "byte 8", bad, "JSON"},
      {"bad UTF-8", "\"\xc0\x80\"", "byte 2", bad, "JSON"},
      {"cut UTF-8", "\"\xe2\x82\"", "byte 4", bad, "JSON"},
      {"binary", "\xff\xfe\x80\x81", "byte 1", bad, "JSON"},
      {"long word", "[" + std::string(100'000, 'x'), "byte 2", bad, "JSON"},
      {"long string", "[\"" + std::string(100'000, 'x') + "\n", "byte 100003", bad, "JSON"},
  };
  expect_refusals(cases, "dir/file.json",
                  [](const std::string& text) { parse_json(text, "dir/file.json"); });
}

TEST(Json, TextBeyondItsLimitsIsRefused) {
  const std::string kind = "ResourceLimitError";
  const std::string deep = "too many nested arrays and objects", many = "too many values";
  const std::vector<Case> cases = {
      {"too long", std::string(65, ' '), "", "65 bytes of JSON", "at most 64", kind},
      {"too deep", nested(4), "", deep, "at most 3", kind},
      {"too deep in objects", R"({"a":{"a":{"a":{}}}})", "", deep, "at most 3", kind},
      {"too deep later", R"([[],[[[]]]])", "", deep, "at most 3", kind},
      {"too many", "[1,2,3,4,5]", "", many, "at most 5", kind},
      {"too many in objects", R"({"a":1,"b":2,"c":3,"d":4,"e":5})", "", many, "at most 5", kind},
      {"too many empty arrays", "[[],[],[],[],[]]", "", many, "at most 5", kind},
  };
  expect_refusals(cases, "f", [](const std::string& text) { parse_json(text, "f", kSmall); });
}

TEST(Json, TextAtItsLimitsIsRead) {
  EXPECT_NO_THROW(parse_json(nested(3), "f", kSmall));
  EXPECT_NO_THROW(parse_json("[[[]],[[]]]", "f", kSmall));
  EXPECT_NO_THROW(parse_json("[1,2,3,4]", "f", kSmall));
  EXPECT_NO_THROW(parse_json("1" + std::string(63, ' '), "f", kSmall));
}

TEST(Json, AMillionBracketsAreRefusedNotRecursedInto) {
  EXPECT_EQ(refusal_of([] { parse_json(std::string(1'000'000, '['), "f"); }).type,
            "ResourceLimitError");
}

TEST(Json, AFileTooLargeIsRefusedBeforeItIsRead) {
  const TempFolder folder;
  const auto file = folder.write("config.json", "{}");
  std::filesystem::resize_file(file, std::uintmax_t{1} << 40);  // a hole: no space on disk
  const Refusal refusal = refusal_of([&] { read_json_file(file); });
  EXPECT_EQ(refusal.type, "ResourceLimitError");
  EXPECT_EQ(refusal.message,
            file.native() + ": found 1099511627776 bytes of JSON, expected at most 16777216");
}

TEST(Json, AFileIsReadAndItsErrorsNameIt) {
  const TempFolder folder;
  EXPECT_EQ(read_json_file(folder.write("a.json", "{\"a\":1}"))["a"], 1);
  const auto bad = folder.write("b.json", "{\"a\":1");
  const Refusal refusal = refusal_of([&] { read_json_file(bad); });
  EXPECT_EQ(refusal.type, "FormatError");
  EXPECT_TRUE(refusal.message.starts_with(bad.native() + ": byte 7: found malformed text"))
      << refusal.message;
}

}  // namespace
}  // namespace bezel::checkpoint
