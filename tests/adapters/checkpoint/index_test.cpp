#include "bezel/adapters/checkpoint/index.h"

#include <gtest/gtest.h>

#include "bezel/hooks/error.h"
#include "support.h"

namespace bezel::checkpoint {
namespace {

TEST(Index, EveryTensorHasItsShardAndEveryShardIsListedOnce) {
  const ShardIndex index = parse_index(
      R"({"metadata":{"total_size":12},
          "weight_map":{"b":"m-2.safetensors","a":"m-1.safetensors","c":"m-2.safetensors"}})",
      "f");
  EXPECT_EQ(index.shard_of,
            (std::map<std::string, std::string>{
                {"a", "m-1.safetensors"}, {"b", "m-2.safetensors"}, {"c", "m-2.safetensors"}}));
  EXPECT_EQ(index.shards, (std::vector<std::string>{"m-1.safetensors", "m-2.safetensors"}));
}

TEST(Index, MetadataMayBeAbsentOrWrittenAsOthersDo) {
  for (const char* metadata :
       {"", "\"metadata\":null,", "\"metadata\":{},", "\"metadata\":{\"total_size\":null},",
        "\"metadata\":{\"total_size\":1.5e10,\"total_parameters\":7,\"format\":\"pt\"},",
        "\"metadata\":{\"total_size\":18446744073709551615},"}) {
    SCOPED_TRACE(metadata);
    const std::string text =
        std::string("{") + metadata + R"("weight_map":{"a":"m.safetensors"},"more":[]})";
    EXPECT_EQ(parse_index(text, "f").shards.size(), 1u);
  }
}

TEST(Index, ShardNamesThatLeadOutOfTheFolderAreRefused) {
  std::vector<Case> cases;
  for (const char* shard :
       {"\"../m.safetensors\"", "\"/etc/m.safetensors\"", "\"sub/m.safetensors\"",
        "\"./m.safetensors\"", "\"m.safetensors/\"", "\"m\\u002f.safetensors\"",
        "\"\\u0000.safetensors\"", "\"m\\u0000.safetensors\"", "\"..\"", "\".\"", "\"\"",
        "\"m.bin\"", "\"m.safetensors \"", "\"M.SAFETENSORS\"", "null", "1",
        "[\"m.safetensors\"]"}) {
    cases.push_back({shard, std::string("{\"weight_map\":{\"model.w\":") + shard + "}}",
                     "weight_map: tensor \"model.w\"", "",
                     "a plain file name that ends in .safetensors"});
  }
  expect_refusals(cases, "i", [](const std::string& text) { parse_index(text, "i"); });
}

TEST(Index, WhatIsNoIndexIsRefused) {
  const std::string map = "an object from tensor names to shard file names";
  const std::string size = "metadata.total_size", ok = R"("weight_map":{"a":"m.safetensors"}})";
  const std::vector<Case> cases = {
      {"empty", "", "byte 1", "malformed text", "JSON"},
      {"array", "[]", "the index", "an array of 0", "an object"},
      {"nothing inside", "{}", "weight_map", "nothing", map},
      {"null", R"({"weight_map":null})", "weight_map", "null", map},
      {"array of names", R"({"weight_map":["a"]})", "weight_map", "an array of 1", map},
      {"no tensors", R"({"weight_map":{}})", "weight_map", "an object of 0", map},
      {"tensor twice", R"({"weight_map":{"a":"m.safetensors","a":"n.safetensors"}})", "key \"a\"",
       "it twice in one object", "it once"},
      {"map twice", R"({"weight_map":{},"weight_map":{}})", "key \"weight_map\"", "it twice",
       "it once"},
      {"metadata of text", "{\"metadata\":\"x\"," + ok, "metadata", "\"x\"", "an object"},
      {"size of text", "{\"metadata\":{\"total_size\":\"9\"}," + ok, size, "\"9\"",
       "a number of bytes"},
      {"size below 0", "{\"metadata\":{\"total_size\":-1}," + ok, size, "-1 (integer)",
       "a number of bytes"},
  };
  expect_refusals(cases, "dir/i.json",
                  [](const std::string& text) { parse_index(text, "dir/i.json"); });
}

TEST(Index, AFileIsReadAndItsErrorsNameIt) {
  const TempFolder folder;
  const auto file =
      folder.write(std::string(kIndexName), R"({"weight_map":{"a":"m.safetensors"}})");
  EXPECT_EQ(read_index(file).shards.size(), 1u);
  folder.write(std::string(kIndexName), "{}");
  EXPECT_TRUE(
      refusal_of([&] { read_index(file); }).message.starts_with(file.native() + ": weight_map: "));
}

}  // namespace
}  // namespace bezel::checkpoint
