// The tensors of encoders and projectors: under which names, what is refused, what is left out.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "bezel/adapters/load.h"
#include "bezel/hooks/error.h"
#include "tests/adapters/tiny_checkpoint.h"

namespace bezel::adapters {
namespace {

using bridge::Bridge;

at::Tensor weight(const Bridge& bridge, const std::string& slot) {
  for (const auto& [name, tensor] : bridge.named_weights()) {
    if (name == slot) return tensor;
  }
  ADD_FAILURE() << "no slot " << slot;
  return {};
}

at::Tensor stored(const std::string& name, const Shape& shape) {
  std::int64_t n = 1;
  for (const auto size : shape) n *= size;
  std::vector<float> values;
  for (std::int64_t i = 0; i < n; ++i) values.push_back(number_of(name, i));
  return at::tensor(values).view(shape);
}

std::string refusal(const json& config, const TensorShapes& tensors,
                    const LoadOptions& options = {}) {
  const TinyCheckpoint files(config, tensors);
  try {
    load(files.path(), options);
  } catch (const ModelMismatchError& error) {
    return error.what();
  }
  ADD_FAILURE() << "it was taken";
  return "";
}

void expect_says(const std::string& message, const std::vector<std::string>& parts) {
  for (const auto& part : parts) {
    EXPECT_NE(message.find(part), std::string::npos) << part << "\nin: " << message;
  }
}

const std::string kVisionLayer = "model.vision_tower.encoder.layers.0.";
const std::string kAudioLayer = "model.audio_tower.layers.0.";

TEST(MediaLoad, EveryTensorIsReadIntoItsSlot) {
  const TinyCheckpoint files(media_config(), media_tensors());
  const Bridge bridge = load(files.path());
  std::int64_t n_stored = 0;
  for (const auto& [name, shape] : media_tensors()) {
    std::int64_t n = 1;
    for (const auto size : shape) n *= size;
    n_stored += n;
  }
  EXPECT_EQ(bridge.n_parameters(), n_stored);
  const std::vector<std::tuple<std::string, std::string, Shape>> wanted = {
      {"vision.encoder.patches", "model.vision_tower.patch_embedder.input_proj.weight", {6, 12}},
      {"vision.encoder.positions",
       "model.vision_tower.patch_embedder.position_embedding_table",
       {2, 5, 6}},
      {"vision.encoder.std_scale", "model.vision_tower.std_scale", {6}},
      {"vision.encoder.layers.0.ln1_post", kVisionLayer + "post_attention_layernorm.weight", {6}},
      {"vision.encoder.layers.0.ln2", kVisionLayer + "pre_feedforward_layernorm.weight", {6}},
      {"vision.encoder.layers.0.mlp.down", kVisionLayer + "mlp.down_proj.linear.weight", {6, 10}},
      {"vision.projection", "model.embed_vision.embedding_projection.weight", {8, 6}},
      {"audio.encoder.subsample.1.conv",
       "model.audio_tower.subsample_conv_projection.layer1.conv.weight",
       {3, 8, 3, 3}},
      {"audio.encoder.layers.0.ff2.down",
       kAudioLayer + "feed_forward2.ffw_layer_2.linear.weight",
       {8, 32}},
      {"audio.encoder.layers.0.attention.out",
       kAudioLayer + "self_attn.post.linear.weight",
       {8, 8}},
      {"audio.encoder.layers.0.conv.depthwise",
       kAudioLayer + "lconv1d.depthwise_conv1d.weight",
       {8, 1, 5}},
      {"audio.encoder.out_bias", "model.audio_tower.output_proj.bias", {5}},
      {"audio.projection", "model.embed_audio.embedding_projection.weight", {8, 5}},
  };
  for (const auto& [slot, name, shape] : wanted) {
    EXPECT_TRUE(at::equal(weight(bridge, slot), stored(name, shape))) << slot;
  }
}

TEST(MediaLoad, TheBoundsOfEachMatrixStandInTheOrderOfAClip) {
  const TinyCheckpoint files(media_config(), media_tensors());
  const Bridge bridge = load(files.path());
  const auto bounds = [](const std::vector<std::string>& matrices) {
    std::vector<at::Tensor> all;
    for (const auto& matrix : matrices) {
      for (const char* bound : {".input_min", ".input_max", ".output_min", ".output_max"}) {
        all.push_back(stored(matrix + bound, {1}));
      }
    }
    return at::cat(all);
  };
  const std::string attention = kVisionLayer + "self_attn.", mlp = kVisionLayer + "mlp.";
  EXPECT_TRUE(at::equal(weight(bridge, "vision.encoder.layers.0.attention.clips"),
                        bounds({attention + "q_proj", attention + "k_proj", attention + "v_proj",
                                attention + "o_proj"})));
  EXPECT_TRUE(at::equal(weight(bridge, "vision.encoder.layers.0.mlp.clips"),
                        bounds({mlp + "gate_proj", mlp + "up_proj", mlp + "down_proj"})));
  EXPECT_TRUE(at::equal(weight(bridge, "audio.encoder.layers.0.attention.out_clips"),
                        bounds({kAudioLayer + "self_attn.post"})));
}

TEST(MediaLoad, BothLayoutsOfTheUnifiedModelAreTheSameModel) {
  const TinyCheckpoint published(unified_config(), unified_tensors(false)),
      of_class(unified_config(), unified_tensors(true));
  const Bridge one = load(published.path()), other = load(of_class.path());
  ASSERT_EQ(one.named_weights().size(), other.named_weights().size());
  for (const auto& [name, tensor] : one.named_weights()) {
    EXPECT_TRUE(at::equal(tensor, weight(other, name))) << name;
  }
  const auto norm = at::stack({stored("model.vision_embedder.pos_norm.weight", {6}),
                               stored("model.vision_embedder.pos_norm.bias", {6})});
  EXPECT_TRUE(at::equal(weight(one, "vision.embedder.ln_out"), norm));
  EXPECT_TRUE(at::equal(weight(one, "vision.embedder.positions"),
                        stored("model.vision_embedder.pos_embedding", {5, 2, 6})));
}

TEST(MediaLoad, AMissingTensorIsRefusedByName) {
  for (const std::string& name :
       {kVisionLayer + "self_attn.v_proj.linear.weight", kVisionLayer + "mlp.up_proj.output_min",
        kAudioLayer + "self_attn.per_dim_scale",
        std::string("model.embed_audio.embedding_projection.weight"),
        std::string("model.vision_tower.std_bias")}) {
    auto tensors = media_tensors();
    ASSERT_EQ(tensors.erase(name), 1U);
    expect_says(refusal(media_config(), tensors), {"tensor \"" + name + "\": found none"});
  }
}

TEST(MediaLoad, ATensorOfAnotherShapeIsRefusedWithBoth) {
  auto tensors = media_tensors();
  tensors[kAudioLayer + "lconv1d.depthwise_conv1d.weight"] = {8, 1, 4};
  expect_says(refusal(media_config(), tensors),
              {"lconv1d.depthwise_conv1d.weight", "found shape [8, 1, 4]", "expected [8, 1, 5]"});
  tensors = media_tensors();
  tensors[kVisionLayer + "mlp.up_proj.output_min"] = {1};  // a vector where a number belongs
  expect_says(refusal(media_config(), tensors), {"mlp.up_proj.output_min", "found shape [1]"});
}

TEST(MediaLoad, WhatNoSlotTakesMakesAnotherModelOfIt) {
  const std::vector<std::pair<std::string, Shape>> extra = {
      {"model.vision_tower.encoder.layers.1.input_layernorm.weight", {6}},
      {"model.audio_tower.layers.1.norm_out.weight", {8}},
      {kVisionLayer + "self_attn.q_proj.linear.bias", {8}},
      {"model.vision_tower.something_new", {6}},
      {"model.vision_embedder.patch_dense.weight", {6, 12}},
      {"model.embed_vision.embedding_projection.bias", {8}},
      {"model.embed_audio.something_new", {8}}};
  for (const auto& [name, shape] : extra) {
    auto tensors = media_tensors();
    tensors[name] = shape;
    expect_says(refusal(media_config(), tensors),
                {"tensor \"" + name + "\": found it, expected none", "config.json describes"});
  }
}

TEST(MediaLoad, BoundsAndStandardisingOfAModelWhoseConfigHasNoneAreRefused) {
  json config = media_config();
  config["vision_config"]["use_clipped_linears"] = false;
  expect_says(refusal(config, media_tensors()), {"vision_tower", "found it, expected none"});
  config = media_config();
  config["audio_config"]["use_clipped_linears"] = false;
  expect_says(refusal(config, media_tensors()), {"audio_tower", "found it, expected none"});
  config = media_config();
  config["vision_config"]["standardize"] = false;
  expect_says(refusal(config, media_tensors()), {"vision_tower.std_", "found it, expected none"});
}

TEST(MediaLoad, AModalityThatIsLeftOutIsNotRead) {
  auto tensors = media_tensors();
  // Damage that nobody looks at: what is not read cannot be refused.
  tensors[kAudioLayer + "lconv1d.depthwise_conv1d.weight"] = {1, 1, 1};
  tensors["model.audio_tower.layers.7.norm_out.weight"] = {8};
  const TinyCheckpoint files(media_config(), tensors);
  const Bridge bridge = load(files.path(), {.modalities = {.audio = Load::kNever}});
  EXPECT_TRUE(bridge.spec().vision.has_value());
  EXPECT_FALSE(bridge.spec().audio.has_value());
  EXPECT_TRUE(std::ranges::none_of(
      bridge.named_weights(), [](const auto& named) { return named.first.starts_with("audio."); }));
  std::int64_t n_read = 0;
  load(files.path(), {.modalities = {.vision = Load::kNever, .audio = Load::kNever},
                      .on_progress = [&](std::int64_t done, std::int64_t) { n_read = done; }});
  TensorShapes text;
  add_text(text);
  std::int64_t n_text = 0;
  for (const auto& [name, shape] : text) {
    std::int64_t n = 4;
    for (const auto size : shape) n *= size;
    n_text += n;
  }
  EXPECT_EQ(n_read, n_text);
}

}  // namespace
}  // namespace bezel::adapters
