#include "bezel/adapters/checkpoint/text.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace bezel::checkpoint {
namespace {

TEST(Text, ControlCharactersQuotesAndBadUtf8AreMadeSafe) {
  EXPECT_EQ(quote("a\"b\n\x1b[0m"), R"("a\"b\n\u001b[0m")");
  EXPECT_EQ(quote(std::string_view("a\0b", 3)), R"("a\u0000b")");
  EXPECT_EQ(quote("a\xff"
                  "b"),
            "\"a\xef\xbf\xbd"
            "b\"");
  EXPECT_EQ(quote("café"), "\"café\"");
  EXPECT_EQ(show("/tmp/a\nb"), "/tmp/a\\nb");
}

TEST(Text, LongTextIsCutBetweenCharacters) {
  EXPECT_EQ(quote(std::string(200, 'x')), '"' + std::string(80, 'x') + "...\"");
  EXPECT_EQ(printable("aaé", 3), "aa...");  // é has two bytes, one of them beyond the cut
  EXPECT_EQ(printable("aaé", 4), "aaé");
  EXPECT_EQ(printable(std::string(1000, '\x80'), 80).size(), 78 + 3u);  // 26 replacement characters
}

TEST(Text, ValuesAreDescribedByKindAndSize) {
  EXPECT_EQ(describe("x"), "\"x\" (string)");
  EXPECT_EQ(describe(-3), "-3 (integer)");
  EXPECT_EQ(describe(0.5), "0.5 (number)");
  EXPECT_EQ(describe(true), "true (boolean)");
  EXPECT_EQ(describe(nullptr), "null");
  EXPECT_EQ(describe({1, 2, 3}), "an array of 3");
  EXPECT_EQ(describe({{"a", 1}}), "an object of 1");
}

}  // namespace
}  // namespace bezel::checkpoint
