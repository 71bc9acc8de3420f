// vision_config and audio_config in all their forms. Defaults are those of transformers 5.17
// (models/gemma4/configuration_gemma4.py, models/gemma4_unified/configuration_gemma4_unified.py).
#include <gtest/gtest.h>

#include "bezel/adapters/load.h"
#include "bezel/hooks/error.h"
#include "tests/adapters/tiny_checkpoint.h"

namespace bezel::adapters {
namespace {

bridge::ModelSpec spec_of(const json& config) {
  const checkpoint::TempFolder folder;
  folder.write("config.json", config.dump());
  return read_spec(folder.path());
}

json with(json config, const std::string& pointer, const json& value) {
  config[json::json_pointer(pointer)] = value;
  return config;
}

/// config.json with this value in this place is refused so.
void expect_refused(const json& config, const std::string& pointer, const json& value,
                    const std::string& type, const std::string& message) {
  const checkpoint::TempFolder folder;
  folder.write("config.json", with(config, pointer, value).dump());
  const auto refusal = checkpoint::refusal_of([&] { read_spec(folder.path()); });
  EXPECT_EQ(refusal.type, type) << pointer << " " << value;
  EXPECT_NE(refusal.message.find("config.json"), std::string::npos) << refusal.message;
  EXPECT_NE(refusal.message.find(message), std::string::npos) << refusal.message;
}

TEST(MediaConfig, WithoutBothPartsTheModelHasNeither) {
  json config = media_config();
  config.erase("vision_config");
  config["audio_config"] = nullptr;
  const auto spec = spec_of(config);
  EXPECT_FALSE(spec.vision || spec.audio);
}

TEST(MediaConfig, AnEmptyVisionConfigHasTheReferencesDefaults) {
  json config = media_config();
  config["vision_config"] = json::object();
  const auto spec = spec_of(config);
  ASSERT_TRUE(spec.vision && spec.vision->encoder && !spec.vision->embedder);
  const auto& encoder = *spec.vision->encoder;
  EXPECT_EQ(encoder.n_layers, 16);
  EXPECT_EQ(encoder.d_vision, 768);
  EXPECT_EQ(encoder.d_patch, 3 * 16 * 16);
  EXPECT_EQ(encoder.n_positions, 10 * 1024);
  EXPECT_EQ(encoder.pool, 3);
  EXPECT_FALSE(encoder.standardises);
  EXPECT_EQ(encoder.norm_eps, 1e-6);
  EXPECT_EQ(encoder.layer.mlp.d_mlp, 3072);
  EXPECT_FALSE(encoder.layer.clips || encoder.layer.has_scalar || encoder.layer.moe);
  EXPECT_EQ(encoder.layer.attention.n_heads, 12);
  EXPECT_EQ(encoder.layer.attention.n_kv_heads, 12);
  EXPECT_EQ(encoder.layer.attention.d_head, 64);
  EXPECT_EQ(encoder.layer.attention.rope, (bridge::RopeSpec{100.0, 32, 2}));
  EXPECT_EQ(spec.vision->projector.d_in, 768);
}

TEST(MediaConfig, AnEmptyAudioConfigHasTheReferencesDefaults) {
  json config = media_config();
  config["audio_config"] = json::object();
  const auto spec = spec_of(config);
  ASSERT_TRUE(spec.audio && spec.audio->encoder);
  const auto& encoder = *spec.audio->encoder;
  EXPECT_EQ(encoder.n_layers, 12);
  EXPECT_EQ(encoder.d_audio, 1024);
  EXPECT_EQ(encoder.n_heads, 8);
  EXPECT_EQ(encoder.d_out, 1536);
  EXPECT_EQ(encoder.channels[0], 128);
  EXPECT_EQ(encoder.channels[1], 32);
  EXPECT_EQ(encoder.n_mel(), 128);
  EXPECT_EQ(encoder.conv_width, 5);
  EXPECT_EQ(encoder.chunk, 12);
  EXPECT_EQ(encoder.n_past, 12);
  EXPECT_EQ(encoder.n_future, 0);
  EXPECT_EQ(encoder.softcap, 50.0);
  EXPECT_EQ(encoder.hidden_score, -1e9);
  EXPECT_EQ(encoder.clamp, 1e10);
  EXPECT_EQ(encoder.residual_weight, 0.5);
  EXPECT_TRUE(encoder.clips);
  EXPECT_EQ(spec.audio->projector.d_in, 1536);
}

TEST(MediaConfig, AnEmptyUnifiedConfigHasTheReferencesDefaults) {
  json config = unified_config();
  config["vision_config"] = config["audio_config"] = json::object();
  const auto spec = spec_of(config);
  ASSERT_TRUE(spec.vision && spec.vision->embedder && !spec.vision->encoder);
  EXPECT_EQ(spec.vision->embedder->d_patch, 3 * 48 * 48);
  EXPECT_EQ(spec.vision->embedder->d_vision, 3840);
  EXPECT_EQ(spec.vision->embedder->n_positions, 1120);
  ASSERT_TRUE(spec.audio && !spec.audio->encoder);
  EXPECT_EQ(spec.audio->projector.d_in, 640);
}

TEST(MediaConfig, EveryFieldThatIsGivenCounts) {
  const json config = media_config();
  const auto read = [&](const char* field, const json& value) {
    return *spec_of(with(config, std::string("/vision_config/") + field, value)).vision->encoder;
  };
  EXPECT_EQ(read("num_hidden_layers", 3).n_layers, 3);
  EXPECT_EQ(read("patch_size", 5).d_patch, 75);
  EXPECT_EQ(read("standardize", false).standardises, false);
  EXPECT_EQ(read("use_clipped_linears", false).layer.clips, false);
  EXPECT_EQ(read("rms_norm_eps", 1e-5).norm_eps, 1e-5);
  EXPECT_EQ(read("rope_parameters", {{"rope_theta", 50.0}}).layer.attention.rope.theta, 50.0);
  const auto hear = [&](const char* field, const json& value) {
    return *spec_of(with(config, std::string("/audio_config/") + field, value)).audio->encoder;
  };
  EXPECT_EQ(hear("attention_context_left", 9).n_past, 8);
  EXPECT_EQ(hear("attention_context_right", 2).n_future, 2);
  EXPECT_EQ(hear("attention_chunk_size", 4).chunk, 4);
  EXPECT_EQ(hear("conv_kernel_size", 3).conv_width, 3);
  EXPECT_EQ(hear("attention_logit_cap", 30).softcap, 30.0);
  EXPECT_EQ(hear("gradient_clipping", 7).clamp, 7.0);
  EXPECT_EQ(hear("residual_weight", 0.25).residual_weight, 0.25);
  EXPECT_EQ(hear("use_clipped_linears", false).clips, false);
}

TEST(MediaConfig, RopeOfImagesIsTheSameUnderBothOfItsNames) {
  for (const char* type : {"default", "axial"}) {
    const json rope = {{"rope_type", type}, {"rope_theta", 100.0}};
    const auto spec = spec_of(with(media_config(), "/vision_config/rope_parameters", rope));
    EXPECT_EQ(spec.vision->encoder->layer.attention.rope, (bridge::RopeSpec{100.0, 2, 2})) << type;
  }
}

TEST(MediaConfig, IdsOfMediaTokensAreTheReferencesWhereTheFileHasNone) {
  json config = media_config();
  EXPECT_EQ(spec_of(config).media_ids.image, 30);
  for (const char* key : {"image_token_id", "video_token_id", "audio_token_id"}) config.erase(key);
  EXPECT_FALSE(spec_of(config).media_ids.image);  // beyond a vocabulary of 40
  config["text_config"]["vocab_size"] = 262'144;
  const auto ids = spec_of(config).media_ids;
  EXPECT_EQ(ids.image, 258'880);
  EXPECT_EQ(ids.video, 258'884);
  EXPECT_EQ(ids.audio, 258'881);
  config["video_token_id"] = nullptr;
  EXPECT_FALSE(spec_of(config).media_ids.video);
}

TEST(MediaConfig, TheUnifiedModelSaysThePatchInThreeNumbersThatMustAgree) {
  json config = unified_config();
  config["vision_config"]["model_patch_size"] = 2;
  EXPECT_EQ(spec_of(config).vision->embedder->d_patch, 12);
  expect_refused(config, "/vision_config/model_patch_size", 3, "FormatError",
                 "vision_config.model_patch_size: found 3");
  expect_refused(config, "/vision_config/output_proj_dims", 8, "FormatError",
                 "vision_config.output_proj_dims: found 8 (integer), expected mm_embed_dim");
}

TEST(MediaConfig, TheWidthOfRawFramesHasFourNamesThatMustAgree) {
  for (const char* key :
       {"audio_embed_dim", "audio_samples_per_token", "hidden_size", "output_proj_dims"}) {
    json config = unified_config();
    config["audio_config"] = {{key, 9}};
    EXPECT_EQ(spec_of(config).audio->projector.d_in, 9) << key;
  }
  expect_refused(unified_config(), "/audio_config/audio_samples_per_token", 9, "FormatError",
                 "audio_config.audio_samples_per_token: found 9 (integer), expected 7");
}

TEST(MediaConfig, WhatBezelDoesNotComputeIsUnsupported) {
  const json config = media_config();
  const auto refuse = [&](const char* place, const json& value, const char* message) {
    expect_refused(config, place, value, "UnsupportedError", message);
  };
  refuse("/vision_config/hidden_activation", "silu",
         "vision_config.hidden_activation: found \"silu\"");
  refuse("/vision_config/attention_bias", true, "vision_config.attention_bias: found true");
  refuse("/vision_config/rope_parameters", {{"rope_type", "yarn"}},
         "vision_config.rope_parameters.rope_type: found \"yarn\"");
  refuse("/audio_config/hidden_act", "gelu", "audio_config.hidden_act: found \"gelu\"");
}

TEST(MediaConfig, MalformedValuesAreRefusedByFieldFoundAndExpected) {
  struct Row {
    const char* place;
    json value;
    const char* message;
  };
  const std::vector<Row> rows = {
      {"/vision_config", 3, "vision_config: found 3 (integer), expected an object"},
      {"/vision_config/hidden_size", "6", "vision_config.hidden_size: found \"6\" (string)"},
      {"/vision_config/hidden_size", 0, "vision_config.hidden_size: found 0"},
      {"/vision_config/num_hidden_layers", -1, "vision_config.num_hidden_layers: found -1"},
      {"/vision_config/num_hidden_layers", 1.5, "vision_config.num_hidden_layers: found 1.5"},
      {"/vision_config/patch_size", 1e9, "vision_config.patch_size: found"},
      {"/vision_config/head_dim", 6, "vision_config.head_dim: found 6 (integer), expected a multi"},
      {"/vision_config/num_attention_heads", 0, "vision_config.num_attention_heads: found 0"},
      {"/vision_config/num_key_value_heads", 3, "vision_config.num_key_value_heads: found 3"},
      {"/vision_config/pooling_kernel_size", 0, "vision_config.pooling_kernel_size: found 0"},
      {"/vision_config/position_embedding_size", 0, "vision_config.position_embedding_size"},
      {"/vision_config/standardize", 1, "vision_config.standardize: found 1"},
      {"/vision_config/use_clipped_linears", "yes", "vision_config.use_clipped_linears: found"},
      {"/vision_config/rms_norm_eps", -1, "vision_config.rms_norm_eps: found -1"},
      {"/vision_config/rope_parameters/rope_theta", 0, "rope_parameters.rope_theta: found 0"},
      {"/audio_config", "none", "audio_config: found \"none\" (string), expected an object"},
      {"/audio_config/hidden_size", 9, "audio_config.hidden_size: found 9 (integer), expected an"},
      {"/audio_config/num_attention_heads", 0, "audio_config.num_attention_heads: found 0"},
      {"/audio_config/subsampling_conv_channels", {8}, "audio_config.subsampling_conv_channels"},
      {"/audio_config/subsampling_conv_channels", {8, 3, 1}, "two numbers"},
      {"/audio_config/subsampling_conv_channels", {3, 3}, "the first at least 4"},
      {"/audio_config/subsampling_conv_channels", {8, 0}, "subsampling_conv_channels"},
      {"/audio_config/attention_context_left", 1, "audio_config.attention_context_left: found 1"},
      {"/audio_config/attention_chunk_size", 0, "audio_config.attention_chunk_size: found 0"},
      {"/audio_config/attention_logit_cap", 0, "audio_config.attention_logit_cap: found 0"},
      {"/audio_config/gradient_clipping", 0, "audio_config.gradient_clipping: found 0"},
      {"/audio_config/residual_weight", "half", "audio_config.residual_weight: found \"half\""},
      {"/image_token_id", 40, "image_token_id: found 40 (integer), expected an integer in 0..39"},
      {"/audio_token_id", -1, "audio_token_id: found -1"},
  };
  for (const Row& row : rows) {
    expect_refused(media_config(), row.place, row.value, "FormatError", row.message);
  }
}

TEST(MediaConfig, HeadsThatDoNotShareEvenlyAreRefused) {
  json config = media_config();
  config["vision_config"]["num_key_value_heads"] = 2;
  expect_refused(config, "/vision_config/num_attention_heads", 3, "FormatError",
                 "vision_config.num_attention_heads: found 3 (integer), expected a multiple");
}

}  // namespace
}  // namespace bezel::adapters
