// A checkpoint of a few hundred numbers with every part of a multimodal Gemma 4: its config.json as
// an object, its tensors by name, and the folder that holds both.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "tests/adapters/checkpoint/support.h"

namespace bezel::adapters {

using nlohmann::json;
using Shape = std::vector<std::int64_t>;
using TensorShapes = std::map<std::string, Shape>;

inline json text_config() {
  return {
      {"hidden_size", 8},         {"intermediate_size", 12},  {"num_hidden_layers", 1},
      {"num_attention_heads", 2}, {"num_key_value_heads", 1}, {"head_dim", 4},
      {"global_head_dim", 4},     {"vocab_size", 40},         {"hidden_size_per_layer_input", 0},
      {"pad_token_id", 0},        {"eos_token_id", 1}};
}

inline json vision_config() {
  return {{"hidden_size", 6},         {"intermediate_size", 10},
          {"num_hidden_layers", 1},   {"num_attention_heads", 2},
          {"num_key_value_heads", 1}, {"head_dim", 4},
          {"patch_size", 2},          {"position_embedding_size", 5},
          {"pooling_kernel_size", 2}, {"use_clipped_linears", true},
          {"standardize", true}};
}

inline json audio_config() {
  return {{"hidden_size", 8},
          {"num_hidden_layers", 1},
          {"num_attention_heads", 2},
          {"output_proj_dims", 5},
          {"subsampling_conv_channels", {8, 3}}};
}

inline json media_config() {
  return {{"model_type", "gemma4"},
          {"text_config", text_config()},
          {"vision_config", vision_config()},
          {"audio_config", audio_config()},
          {"image_token_id", 30},
          {"video_token_id", 31},
          {"audio_token_id", 32}};
}

inline json unified_config() {
  return {
      {"model_type", "gemma4_unified"},
      {"text_config", text_config()},
      {"vision_config",
       {{"patch_size", 1}, {"pooling_kernel_size", 2}, {"mm_embed_dim", 6}, {"mm_posemb_size", 5}}},
      {"audio_config", {{"audio_embed_dim", 7}}},
      {"image_token_id", 30},
      {"video_token_id", 31},
      {"audio_token_id", 32}};
}

inline void add_text(TensorShapes& tensors) {
  const std::string layer = "model.language_model.layers.0.";
  tensors.insert({{"model.language_model.embed_tokens.weight", {40, 8}},
                  {"model.language_model.norm.weight", {8}},
                  {layer + "self_attn.q_proj.weight", {8, 8}},
                  {layer + "self_attn.k_proj.weight", {4, 8}},
                  {layer + "self_attn.v_proj.weight", {4, 8}},
                  {layer + "self_attn.o_proj.weight", {8, 8}},
                  {layer + "self_attn.q_norm.weight", {4}},
                  {layer + "self_attn.k_norm.weight", {4}},
                  {layer + "mlp.gate_proj.weight", {12, 8}},
                  {layer + "mlp.up_proj.weight", {12, 8}},
                  {layer + "mlp.down_proj.weight", {8, 12}},
                  {layer + "layer_scalar", {1}}});
  for (const char* norm : {"input_layernorm", "post_attention_layernorm",
                           "pre_feedforward_layernorm", "post_feedforward_layernorm"}) {
    tensors[layer + norm + ".weight"] = {8};
  }
}

/// A matrix of a class that clamps.
inline void add_clipped(TensorShapes& tensors, const std::string& name, Shape shape) {
  tensors[name + ".linear.weight"] = std::move(shape);
  for (const char* bound : {".input_min", ".input_max", ".output_min", ".output_max"}) {
    tensors[name + bound] = {};
  }
}

inline void add_vision(TensorShapes& tensors) {
  const std::string tower = "model.vision_tower.", layer = tower + "encoder.layers.0.";
  tensors.insert({{tower + "patch_embedder.input_proj.weight", {6, 12}},
                  {tower + "patch_embedder.position_embedding_table", {2, 5, 6}},
                  {tower + "std_bias", {6}},
                  {tower + "std_scale", {6}},
                  {layer + "self_attn.q_norm.weight", {4}},
                  {layer + "self_attn.k_norm.weight", {4}},
                  {"model.embed_vision.embedding_projection.weight", {8, 6}}});
  add_clipped(tensors, layer + "self_attn.q_proj", {8, 6});
  add_clipped(tensors, layer + "self_attn.k_proj", {4, 6});
  add_clipped(tensors, layer + "self_attn.v_proj", {4, 6});
  add_clipped(tensors, layer + "self_attn.o_proj", {6, 8});
  add_clipped(tensors, layer + "mlp.gate_proj", {10, 6});
  add_clipped(tensors, layer + "mlp.up_proj", {10, 6});
  add_clipped(tensors, layer + "mlp.down_proj", {6, 10});
  for (const char* norm : {"input_layernorm", "post_attention_layernorm",
                           "pre_feedforward_layernorm", "post_feedforward_layernorm"}) {
    tensors[layer + norm + ".weight"] = {6};
  }
}

inline void add_audio_layer(TensorShapes& tensors, const std::string& layer) {
  for (const char* half : {"feed_forward1.", "feed_forward2."}) {
    add_clipped(tensors, layer + half + "ffw_layer_1", {32, 8});
    add_clipped(tensors, layer + half + "ffw_layer_2", {8, 32});
    tensors[layer + half + "pre_layer_norm.weight"] = {8};
    tensors[layer + half + "post_layer_norm.weight"] = {8};
  }
  for (const char* matrix : {"q_proj", "k_proj", "v_proj", "post"}) {
    add_clipped(tensors, layer + "self_attn." + matrix, {8, 8});
  }
  add_clipped(tensors, layer + "lconv1d.linear_start", {16, 8});
  add_clipped(tensors, layer + "lconv1d.linear_end", {8, 8});
  tensors.insert({{layer + "self_attn.relative_k_proj.weight", {8, 8}},
                  {layer + "self_attn.per_dim_scale", {4}},
                  {layer + "lconv1d.depthwise_conv1d.weight", {8, 1, 5}}});
  for (const char* norm : {"norm_pre_attn", "norm_post_attn", "norm_out", "lconv1d.pre_layer_norm",
                           "lconv1d.conv_norm"}) {
    tensors[layer + norm + ".weight"] = {8};
  }
}

inline void add_audio(TensorShapes& tensors) {
  const std::string tower = "model.audio_tower.", convs = tower + "subsample_conv_projection.";
  tensors.insert({{convs + "layer0.conv.weight", {8, 1, 3, 3}},
                  {convs + "layer0.norm.weight", {8}},
                  {convs + "layer1.conv.weight", {3, 8, 3, 3}},
                  {convs + "layer1.norm.weight", {3}},
                  {convs + "input_proj_linear.weight", {8, 6}},
                  {tower + "output_proj.weight", {5, 8}},
                  {tower + "output_proj.bias", {5}},
                  {"model.embed_audio.embedding_projection.weight", {8, 5}}});
  add_audio_layer(tensors, tower + "layers.0.");
}

inline TensorShapes media_tensors() {
  TensorShapes tensors;
  add_text(tensors);
  add_vision(tensors);
  add_audio(tensors);
  return tensors;
}

/// As published and as saved again: "vision_embedder.", or in the class's own layout.
inline TensorShapes unified_tensors(bool in_class_layout) {
  TensorShapes tensors;
  add_text(tensors);
  const std::string in = in_class_layout ? "model.embed_vision." : "model.vision_embedder.";
  for (const auto& [name, width] :
       {std::pair{"patch_ln1", 12}, {"patch_ln2", 6}, {"pos_norm", 6}}) {
    tensors[in + name + ".weight"] = tensors[in + name + ".bias"] = {width};
  }
  tensors[in + "patch_dense.weight"] = {6, 12};
  tensors[in + "patch_dense.bias"] = {6};
  tensors[in + "pos_embedding"] = {5, 2, 6};
  tensors[std::string("model.embed_vision.") + (in_class_layout ? "multimodal_embedder." : "") +
          "embedding_projection.weight"] = {8, 6};
  tensors["model.embed_audio.embedding_projection.weight"] = {8, 7};
  return tensors;
}

/// Numbers that tell a tensor by its name, the same in both layouts of the unified model.
inline float number_of(std::string name, std::int64_t i) {
  for (const std::string part : {"vision_embedder.", "embed_vision.", "multimodal_embedder."}) {
    const std::size_t begin = name.find(part);
    if (begin != std::string::npos) name.erase(begin, part.size());
  }
  std::uint32_t hash = 17;
  for (const char c : name) hash = hash * 31 + static_cast<unsigned char>(c);
  return static_cast<float>(hash % 1000) / 1000.0F + static_cast<float>(i) * 0.001F;
}

class TinyCheckpoint {
 public:
  TinyCheckpoint(const json& config, const TensorShapes& tensors) {
    folder_.write("config.json", config.dump());
    std::string header = "{", data;
    for (const auto& [name, shape] : tensors) {
      std::int64_t n = 1;
      for (const auto size : shape) n *= size;
      const std::size_t begin = data.size();
      for (std::int64_t i = 0; i < n; ++i) {
        const float value = number_of(name, i);
        data.append(reinterpret_cast<const char*>(&value), sizeof value);
      }
      if (header.size() > 1) header.append(",");
      header.append(checkpoint::entry(name, "F32", json(shape).dump(),
                                      json::array({begin, data.size()}).dump()));
    }
    folder_.write("model.safetensors", checkpoint::file_image(header + "}", data));
  }
  const std::filesystem::path& path() const { return folder_.path(); }

 private:
  checkpoint::TempFolder folder_;
};

}  // namespace bezel::adapters
