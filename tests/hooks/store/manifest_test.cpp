// A manifest's bytes, what is refused of one, and what two of them differ in.
#include "bezel/hooks/store/manifest.h"

#include <gtest/gtest.h>

#include <functional>

#include "bezel/hooks/error.h"
#include "tests/hooks/store/support.h"

namespace bezel::store {
namespace {

TEST(Manifest, ComesBackFromItsOwnBytes) {
  const std::string text = to_text(small_manifest());
  const Manifest found = parse_manifest(text, "MANIFEST.json");
  EXPECT_EQ(found.values, small_manifest().values);
  EXPECT_EQ(to_text(found), text);
}

TEST(Manifest, TheOrderOfARequestsKeysDoesNotMatter) {
  Manifest one = small_manifest(), other = small_manifest();
  one.request = R"({"a": 1, "b": {"d": 2, "c": 3}})";
  other.request = R"({"b": {"c": 3, "d": 2}, "a": 1})";
  EXPECT_EQ(to_text(checked(one)), to_text(checked(other)));
}

TEST(Manifest, BlocksAreOfAboutFourMebibytes) {
  Manifest manifest = small_manifest();
  manifest.total_rows = manifest.rows_per_shard = 1'000'000;
  manifest.values = {
      {.name = "wide", .axes = {"d_model"}, .shape = {1536}, .dtype = DType::kBFloat16},
      {.name = "huge", .axes = {"d_vocab"}, .shape = {9'000'000}}};
  manifest = checked(manifest);
  EXPECT_EQ(manifest.values[0].rows_per_block, (4U << 20) / 3072);
  EXPECT_EQ(manifest.values[1].rows_per_block, 1U);
}

TEST(Manifest, AValuePerShardIsOneBlockAndCountsOnceAShard) {
  Manifest manifest = small_manifest();
  EXPECT_EQ(manifest.values[2].rows_per_block, 1U);
  manifest.rows_per_shard = 21;
  manifest.values = {
      {.name = "x:covariance", .shape = {1ULL << 29, 1ULL << 29}, .per_shard = true}};
  manifest.values[0].axes = {"d_model", "d_model_2"};
  manifest = checked(manifest);  // 2^60 bytes once: as rows it would be too large
  EXPECT_EQ(manifest.values[0].rows_per_block, 1U);
  manifest.rows_per_shard = 1;
  EXPECT_THROW(checked(manifest), ArgumentError) << "21 shards";
}

TEST(Manifest, WhatNoStoreCanHaveIsRefused) {
  const std::vector<std::pair<std::string, std::function<void(Manifest&)>>> cases = {
      {"no rows", [](Manifest& m) { m.total_rows = 0; }},
      {"no rows", [](Manifest& m) { m.rows_per_shard = 0; }},
      {"more than 1,000,000 shards", [](Manifest& m) { m.total_rows = 1ULL << 40; }},
      {"twice", [](Manifest& m) { m.values[1].name = m.values[0].name; }},
      {"cannot be a name", [](Manifest& m) { m.values[0].name = ""; }},
      {"cannot be a name", [](Manifest& m) { m.values[0].name = "a/b"; }},
      {"cannot be a name", [](Manifest& m) { m.values[0].name = ".."; }},
      {"cannot be a name", [](Manifest& m) { m.values[0].name = std::string("a\0b", 3); }},
      {"a label", [](Manifest& m) { m.values[0].name = "token_id"; }},
      {"UTF-8", [](Manifest& m) { m.values[0].name = "\xff"; }},
      {"axis of length 0", [](Manifest& m) { m.values[0].shape = {0}; }},
      {"2 axes and 1 lengths", [](Manifest& m) { m.values[1].shape = {3}; }},
      {"2^62",
       [](Manifest& m) {
         m.values[1].shape = {1ULL << 40, 1ULL << 40};
       }},
      {"2^62",
       [](Manifest& m) {
         m.values[1].shape = {1ULL << 29, 1ULL << 29};
       }},
      {"no JSON object", [](Manifest& m) { m.request = "[1]"; }},
  };
  for (const auto& [wanted, change] : cases) {
    Manifest manifest = small_manifest();
    change(manifest);
    try {
      checked(manifest);
      ADD_FAILURE() << "accepted, wanted: " << wanted;
    } catch (const ArgumentError& error) {
      EXPECT_NE(std::string(error.what()).find(wanted), std::string::npos) << error.what();
    }
  }
}

TEST(Manifest, TextThatIsNotAsBezelWritesItIsRefused) {
  const std::string text = to_text(small_manifest());
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = text;
    changed.replace(changed.find(from), from.size(), to);
    return changed;
  };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"is no JSON", text.substr(0, text.size() / 2)},
      {"NUL", text + '\0'},
      {"not as bezel writes it", text + " "},
      {"has schema 2; this bezel reads 1", with("\"bezel_store\": 1", "\"bezel_store\": 2")},
      {"a key twice", with("\"has_types\"", "\"request\"")},
      {"dtype or per_shard that bezel knows", with("bfloat16", "bfloat17")},
      {"per_shard that bezel knows", with("\"per_shard\": true", "\"per_shard\": 1")},
      {"other fields", with("\"per_shard\": true,\n", "")},
      {"not as bezel writes it", with("\"rows_per_block\": 1,", "\"rows_per_block\": 2,")},
      {"no whole number \"total_rows\"", with("\"total_rows\": 21", "\"total_rows\": -1")},
      {"no whole number \"total_rows\"", with("\"total_rows\": 21", "\"total_rows\": 1e3")},
      {"nests deeper", std::string(100, '[')},
      {"is no JSON object", "[]"},
  };
  for (const auto& [wanted, changed] : cases) {
    const std::string told = refusal_of([&] { parse_manifest(changed, "MANIFEST.json"); });
    EXPECT_TRUE(told.starts_with("MANIFEST.json: ")) << told;
    EXPECT_NE(told.find(wanted), told.npos) << "wanted: " << wanted << "\ngot: " << told;
  }
}

TEST(Manifest, DifferencesNameEachFieldWithBothValues) {
  Manifest other = small_manifest();
  other.total_rows = 22;
  other.values[0].dtype = DType::kFloat32;
  other.request = R"({"model": "E2B", "corpus": {"hash": "abc"}, "edits": []})";
  const auto told = differences(to_text(small_manifest()), to_text(checked(other)));
  EXPECT_EQ(told, (std::vector<std::string>{
                      "/request/edits: the store has nothing, this run null",
                      R"(/request/model: the store has "nano", this run "E2B")",
                      "/total_rows: the store has 21, this run 22",
                      R"(/values/0/dtype: the store has "bfloat16", this run "float32")"}));
}

TEST(Manifest, NumbersOfFilesThatStandAloneAreNoneOfRows) {
  for (const DType dtype : {DType::kFloat16, DType::kInt8, DType::kInt16, DType::kUInt64}) {
    Manifest manifest = small_manifest();
    manifest.values[0].dtype = dtype;
    EXPECT_THROW(checked(manifest), ArgumentError) << to_string(dtype);
    std::string text = to_text(small_manifest());
    text.replace(text.find("bfloat16"), 8, to_string(dtype));
    EXPECT_THROW(parse_manifest(text, "MANIFEST.json"), StoreError) << to_string(dtype);
  }
}

}  // namespace
}  // namespace bezel::store
