#include "bezel/adapters/checkpoint/config.h"

#include <gtest/gtest.h>

#include "bezel/hooks/error.h"
#include "support.h"

namespace bezel::checkpoint {
namespace {

TEST(Config, TheObjectIsGivenAsItIsWritten) {
  const TempFolder folder;
  folder.write("config.json", "\n {\"model_type\": \"gemma4\", \"text_config\": {\"n\": 1}}\n");
  const auto config = read_config(folder.path());
  EXPECT_EQ(config["model_type"], "gemma4");
  EXPECT_EQ(config["text_config"]["n"], 1);
}

TEST(Config, WhatIsNoConfigIsRefused) {
  const TempFolder folder;
  const auto file = folder / "config.json";
  const std::vector<Case> cases = {
      {"empty", "", "byte 1", "malformed text", "JSON"},
      {"array", "[]", "", "an array of 0", "an object"},
      {"text", "\"gemma4\"", "", "\"gemma4\" (string)", "an object"},
      {"duplicate", R"({"a":{"n_layers":1,"n_layers":2}})", "key \"n_layers\"", "it twice",
       "it once"},
      {"NaN", R"({"eps":NaN})", "byte 8", "malformed text", "JSON"},
      {"Infinity", R"({"eps":Infinity})", "byte 8", "malformed text", "JSON"},
      {"minus Infinity", R"({"eps":-Infinity})", "byte 9", "malformed text", "JSON"},
      {"beyond double", R"({"eps":1e400})", "byte 12", "malformed text (number overflow", "JSON"},
      {"cut", R"({"a":1,"b)", "byte 10", "malformed text", "JSON"},
  };
  expect_refusals(cases, file.native(), [&](const std::string& text) {
    folder.write("config.json", text);
    read_config(folder.path());
  });
}

TEST(Config, AFolderWithoutItSaysWhichFileIsMissing) {
  const TempFolder folder;
  const Refusal refusal = refusal_of([&] { read_config(folder.path()); });
  EXPECT_EQ(refusal.type, "FormatError");
  EXPECT_EQ(refusal.message, (folder / "config.json").native() +
                                 ": found no such file, expected the model's configuration; is " +
                                 folder.path().native() + " a model folder?");
}

TEST(GenerationConfig, AbsentIsNotEmpty) {
  const TempFolder folder;
  EXPECT_FALSE(read_generation_config(folder.path()).has_value());
  folder.write("generation_config.json", "{}");
  const auto config = read_generation_config(folder.path());
  ASSERT_TRUE(config.has_value());
  EXPECT_TRUE(config->eos_token_ids.empty());
  EXPECT_EQ(config->bos_token_id, std::nullopt);
  EXPECT_EQ(config->do_sample, std::nullopt);
}

TEST(GenerationConfig, ALinkToNothingIsNotAbsent) {
  const TempFolder folder;
  folder.link("generation_config.json", "missing");
  EXPECT_EQ(refusal_of([&] { read_generation_config(folder.path()); }).type, "CheckpointError");
}

TEST(GenerationConfig, ThePublishedFileIsRead) {
  const TempFolder folder;
  folder.write("generation_config.json",
               R"({"bos_token_id":2,"do_sample":true,"eos_token_id":[1,106,50],"pad_token_id":0,
                   "temperature":1.0,"top_k":64,"top_p":0.95,"max_new_tokens":null,
                   "transformers_version":"5.5.0.dev0"})");
  const auto config = read_generation_config(folder.path());
  ASSERT_TRUE(config.has_value());
  EXPECT_EQ(config->eos_token_ids, (std::vector<std::int64_t>{1, 106, 50}));
  EXPECT_EQ(config->bos_token_id, 2);
  EXPECT_EQ(config->pad_token_id, 0);
  EXPECT_EQ(config->do_sample, true);
  EXPECT_EQ(config->temperature, 1.0);
  EXPECT_EQ(config->top_k, 64);
  EXPECT_EQ(config->top_p, 0.95);
  EXPECT_EQ(config->max_new_tokens, std::nullopt);
}

TEST(GenerationConfig, FieldsOfAnotherKindAreRefused) {
  const TempFolder folder;
  const auto file = folder / "generation_config.json";
  const std::string token = "an integer in 0..2147483647";
  const std::vector<Case> cases = {
      {"array", "[]", "", "an array of 0", "an object"},
      {"eos text", R"({"eos_token_id":"1"})", "eos_token_id", "\"1\" (string)", token},
      {"eos float", R"({"eos_token_id":1.0})", "eos_token_id", "1.0 (number)", token},
      {"eos negative", R"({"eos_token_id":-1})", "eos_token_id", "-1 (integer)", token},
      {"eos 2^31", R"({"eos_token_id":[1,2147483648]})", "eos_token_id[1]", "2147483648",
       "an array of integers in 0..2147483647"},
      {"pad true", R"({"pad_token_id":true})", "pad_token_id", "true (boolean)", token},
      {"sampling 1", R"({"do_sample":1})", "do_sample", "1 (integer)", "true or false"},
      {"temperature text", R"({"temperature":"hot"})", "temperature", "\"hot\"", "a number"},
      {"top_k float", R"({"top_k":64.0})", "top_k", "64.0 (number)", token},
  };
  expect_refusals(cases, file.native(), [&](const std::string& text) {
    folder.write("generation_config.json", text);
    read_generation_config(folder.path());
  });
}

}  // namespace
}  // namespace bezel::checkpoint
