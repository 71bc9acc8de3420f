#include "bezel/adapters/checkpoint/json.h"

#include <gtest/gtest.h>

#include "bezel/hooks/error.h"
#include "support.h"

namespace bezel::checkpoint {
namespace {

std::string nested(std::size_t depth) {
  return std::string(depth, '[') + std::string(depth, ']');
}

constexpr JsonLimits kSmall = {
    .max_bytes = 64, .max_depth = 3, .max_values = 5, .max_string_bytes = 8};

TEST(Json, WhatTheParserReadsIsWhatTheTextSays) {
  const auto json = parse_json(
      " \n\t{\"a\": [1, -2, 0.5, true, null, \"\\u00e9\\n\"], \"b\": {\"c\": {}}, "
      "\"big\": 18446744073709551615, \"\": \"\"} \r\n",
      "file");
  EXPECT_EQ(json.size(), 4u);
  EXPECT_EQ(json["a"].size(), 6u);
  EXPECT_EQ(json["a"][1], -2);
  EXPECT_EQ(json["a"][2], 0.5);
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
  const std::vector<Case> cases = {
      {"nothing", "", "FormatError", {"byte 1", "not JSON", "unexpected end of input"}},
      {"blanks", " \n ", "FormatError", {"not JSON", "unexpected end of input"}},
      {"open object", "{", "FormatError", {"byte 2", "not JSON"}},
      {"open array", "[1,2", "FormatError", {"byte 5", "not JSON"}},
      {"open string", "\"abc", "FormatError", {"not JSON", "missing closing quote"}},
      {"closing only", "}", "FormatError", {"byte 1", "not JSON"}},
      {"wrong closing", "[1}", "FormatError", {"byte 3", "not JSON"}},
      {"trailing comma in array", "[1,]", "FormatError", {"byte 4", "not JSON"}},
      {"trailing comma in object", "{\"a\":1,}", "FormatError", {"byte 8", "not JSON"}},
      {"no colon", "{\"a\" 1}", "FormatError", {"byte 6", "not JSON"}},
      {"key without quotes", "{a:1}", "FormatError", {"byte 2", "not JSON"}},
      {"number as key", "{1:1}", "FormatError", {"byte 2", "not JSON"}},
      {"text behind the value", "{} {}", "FormatError", {"byte 4", "not JSON"}},
      {"NUL behind the value", std::string("{}\0", 3), "FormatError", {"byte 2", "NUL"}},
      {"NUL and more", std::string("{}\0{", 4), "FormatError", {"byte 2", "NUL"}},
      {"NUL in a string", std::string("\"\0\"", 3), "FormatError", {"byte 1", "NUL"}},
      {"duplicate key", R"({"a":1,"a":1})", "FormatError", {"byte 10", "\"a\" twice"}},
      {"duplicate key, escaped", R"({"a":1,"\u0061":1})", "FormatError", {"\"a\" twice"}},
      {"duplicate key, deep", R"([{"b":{"k":[],"k":0}}])", "FormatError", {"\"k\" twice"}},
      {"duplicate null key", R"({"a":null,"a":1})", "FormatError", {"\"a\" twice"}},
      {"NaN", "[NaN]", "FormatError", {"byte 2", "not JSON"}},
      {"Infinity", "{\"a\":Infinity}", "FormatError", {"byte 6", "not JSON"}},
      {"minus Infinity", "[-Infinity]", "FormatError", {"byte 3", "not JSON"}},
      {"beyond double", "[1e999]", "FormatError", {"number overflow"}},
      {"leading zero", "[01]", "FormatError", {"byte 3", "not JSON"}},
      {"plus", "[+1]", "FormatError", {"byte 2", "not JSON"}},
      {"hex", "[0x10]", "FormatError", {"byte 3", "not JSON"}},
      {"point only", "[1.]", "FormatError", {"not JSON"}},
      {"single quotes", "{'a':1}", "FormatError", {"byte 2", "not JSON"}},
      {"comment", "{}// no", "FormatError", {"byte 3", "not JSON"}},
      {"True", "[True]", "FormatError", {"byte 2", "not JSON"}},
      {"control character", "\"a\x01\"", "FormatError", {"byte 3", "not JSON"}},
      {"line break in a string", "\"a\nb\"", "FormatError", {"byte 3", "not JSON"}},
      {"unknown escape", R"("\x41")", "FormatError", {"byte 3", "not JSON"}},
      {"lone surrogate", R"("\ud800")", "FormatError", {"not JSON", "surrogate"}},
      {"bad UTF-8", "\"\xc0\x80\"", "FormatError", {"byte 2", "not JSON", "UTF-8"}},
      {"cut UTF-8", "\"\xe2\x82\"", "FormatError", {"not JSON", "UTF-8"}},
      {"binary", "\xff\xfe\x80\x81", "FormatError", {"byte 1", "not JSON"}},
  };
  expect_refusals(cases, "dir/file.json: byte ",
                  [](const std::string& text) { parse_json(text, "dir/file.json"); });
}

TEST(Json, TextBeyondItsLimitsIsRefused) {
  const std::vector<Case> cases = {
      {"too long", std::string(65, ' '), "ResourceLimitError", {"65 bytes", "limit is 64"}},
      {"too deep", nested(4), "ResourceLimitError", {"byte 4", "deep", "limit is 3"}},
      {"too deep in objects",
       R"({"a":{"a":{"a":{}}}})",
       "ResourceLimitError",
       {"byte 16", "deep", "limit is 3"}},
      {"too many", "[1,2,3,4,5]", "ResourceLimitError", {"many values", "limit is 5"}},
      {"too many in objects",
       R"({"a":1,"b":2,"c":3,"d":4,"e":5})",
       "ResourceLimitError",
       {"many values", "limit is 5"}},
      {"long string", "\"123456789\"", "ResourceLimitError", {"string of 9", "limit is 8"}},
      {"long key", "{\"123456789\":1}", "ResourceLimitError", {"string of 9", "limit is 8"}},
  };
  expect_refusals(cases, "f: ", [](const std::string& text) { parse_json(text, "f", kSmall); });
}

TEST(Json, TextAtItsLimitsIsRead) {
  EXPECT_NO_THROW(parse_json(nested(3), "f", kSmall));
  EXPECT_NO_THROW(parse_json("[1,2,3,4]", "f", kSmall));
  EXPECT_NO_THROW(parse_json("{\"12345678\":\"12345678\"}", "f", kSmall));
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
  EXPECT_NE(refusal.message.find("1099511627776 bytes"), std::string::npos) << refusal.message;
}

TEST(Json, AFileIsReadAndItsErrorsNameIt) {
  const TempFolder folder;
  EXPECT_EQ(read_json_file(folder.write("a.json", "{\"a\":1}"))["a"], 1);
  const auto bad = folder.write("b.json", "{\"a\":1");
  const Refusal refusal = refusal_of([&] { read_json_file(bad); });
  EXPECT_EQ(refusal.type, "FormatError");
  EXPECT_TRUE(refusal.message.starts_with(bad.native() + ": byte 7: not JSON")) << refusal.message;
}

}  // namespace
}  // namespace bezel::checkpoint
