// Field meanings and defaults follow transformers 5.17 (models/gemma4/configuration_gemma4.py and
// models/gemma4_unified/configuration_gemma4_unified.py).
#include "bezel/adapters/gemma4_media.h"

#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

namespace bezel::adapters::gemma4_media {
namespace {

using bridge::AudioEncoderSpec;
using bridge::AudioSpec;
using bridge::ModelSpec;
using bridge::VisionEmbedderSpec;
using bridge::VisionEncoderSpec;
using bridge::VisionSpec;
using checkpoint::ConfigReader;

constexpr std::int64_t kMaxWidth = 1 << 20;
constexpr std::int64_t kMaxLayers = 4096;
constexpr std::int64_t kMaxSide = 1 << 12;  // of a patch, of a square of patches
constexpr std::int64_t kColours = 3;
constexpr double kSmallest = 1e-30;  // of what must be positive
constexpr double kNormEps = 1e-6;

void want(const ConfigReader& config, const char* key, const char* value) {
  if (config.string_or(key, value) == value) return;
  config.unsupported(key, "\"" + std::string(value) + "\"");
}

bridge::RopeSpec vision_rope(const ConfigReader& config, std::int64_t d_head) {
  bridge::RopeSpec rope{.theta = 100.0, .n_rotated_pairs = d_head / 2, .n_axes = 2};
  const auto fields = config.optional_object("rope_parameters");
  if (!fields) return rope;
  const std::string type = fields->string_or("rope_type", "axial");
  // Published files say "default", saved ones "axial": the same.
  if (type != "axial" && type != "default") fields->unsupported("rope_type", "\"axial\"");
  rope.theta = fields->number_or("rope_theta", rope.theta, kSmallest);
  return rope;
}

bridge::LayerSpec vision_layer(const ConfigReader& config) {
  bridge::LayerSpec layer;
  auto& attention = layer.attention;
  attention.n_heads = config.integer_or("num_attention_heads", 12, 1, kMaxWidth);
  attention.n_kv_heads = config.integer_or("num_key_value_heads", 12, 1, attention.n_heads);
  attention.d_head = config.integer_or("head_dim", 64, 4, kMaxWidth);
  if (attention.d_head % 4 != 0) config.refuse("head_dim", "a multiple of 4: RoPE has two axes");
  if (attention.n_heads % attention.n_kv_heads != 0) {
    config.refuse("num_attention_heads", "a multiple of num_key_value_heads");
  }
  attention.rope = vision_rope(config, attention.d_head);
  layer.mlp.d_mlp = config.integer_or("intermediate_size", 3072, 1, kMaxWidth);
  layer.clips = config.boolean_or("use_clipped_linears", false);
  layer.has_scalar = false;
  return layer;
}

VisionSpec vision(const ConfigReader& config) {
  want(config, "hidden_activation", "gelu_pytorch_tanh");
  if (config.boolean_or("attention_bias", false)) config.unsupported("attention_bias", "false");
  const auto patch = config.integer_or("patch_size", 16, 1, kMaxSide);
  VisionEncoderSpec spec;
  spec.n_layers = config.integer_or("num_hidden_layers", 16, 1, kMaxLayers);
  spec.d_vision = config.integer_or("hidden_size", 768, 1, kMaxWidth);
  spec.d_patch = kColours * patch * patch;
  spec.n_positions = config.integer_or("position_embedding_size", 10'240, 1, kMaxWidth);
  spec.pool = config.integer_or("pooling_kernel_size", 3, 1, kMaxSide);
  spec.standardises = config.boolean_or("standardize", false);
  spec.norm_eps = config.number_or("rms_norm_eps", kNormEps, 0.0, 1.0);
  spec.layer = vision_layer(config);
  return {.encoder = spec, .embedder = {}, .projector = {spec.d_vision, spec.norm_eps}};
}

VisionSpec unified_vision(const ConfigReader& config) {
  const auto side = config.integer_or("patch_size", 16, 1, kMaxSide) *
                    config.integer_or("pooling_kernel_size", 3, 1, kMaxSide);
  if (config.integer_or("model_patch_size", side, 1, kMaxWidth) != side) {
    config.refuse("model_patch_size", std::to_string(side) + ": patch_size * pooling_kernel_size");
  }
  VisionEmbedderSpec spec;
  spec.d_patch = kColours * side * side;
  spec.d_vision = config.integer_or("mm_embed_dim", 3840, 1, kMaxWidth);
  spec.n_positions = config.integer_or("mm_posemb_size", 1120, 1, kMaxWidth);
  if (config.integer_or("output_proj_dims", spec.d_vision, 1, kMaxWidth) != spec.d_vision) {
    config.refuse("output_proj_dims", "mm_embed_dim, which the projector reads");
  }
  const double eps = config.number_or("rms_norm_eps", kNormEps, 0.0, 1.0);
  return {.encoder = {}, .embedder = spec, .projector = {spec.d_vision, eps}};
}

AudioSpec audio(const ConfigReader& config) {
  want(config, "hidden_act", "silu");
  AudioEncoderSpec spec;
  spec.n_layers = config.integer_or("num_hidden_layers", 12, 1, kMaxLayers);
  spec.d_audio = config.integer_or("hidden_size", 1024, 2, kMaxWidth);
  spec.n_heads = config.integer_or("num_attention_heads", 8, 1, spec.d_audio);
  if (spec.d_audio % spec.n_heads != 0 || spec.d_audio % 2 != 0) {
    config.refuse("hidden_size", "an even multiple of num_attention_heads");
  }
  spec.d_out = config.integer_or("output_proj_dims", 1536, 1, kMaxWidth);
  spec.channels = {128, 32};
  if (config.has("subsampling_conv_channels")) {
    const auto given = config.integers("subsampling_conv_channels", 1, kMaxWidth);
    if (given.size() != 2 || given[0] < 4) {
      config.refuse("subsampling_conv_channels", "two numbers, the first at least 4");
    }
    spec.channels = {given[0], given[1]};
  }
  spec.conv_width = config.integer_or("conv_kernel_size", 5, 1, kMaxSide);
  spec.chunk = config.integer_or("attention_chunk_size", 12, 1, kMaxSide);
  spec.n_past = config.integer_or("attention_context_left", 13, 2, kMaxSide) - 1;
  spec.n_future = config.integer_or("attention_context_right", 0, 0, kMaxSide);
  spec.softcap = config.number_or("attention_logit_cap", 50.0, kSmallest);
  spec.hidden_score = config.number_or("attention_invalid_logits_value", -1e9);
  spec.clamp = config.number_or("gradient_clipping", 1e10, kSmallest);
  spec.residual_weight = config.number_or("residual_weight", 0.5);
  spec.norm_eps = config.number_or("rms_norm_eps", kNormEps, 0.0, 1.0);
  spec.clips = config.boolean_or("use_clipped_linears", true);
  return {.encoder = spec, .projector = {spec.d_out, spec.norm_eps}};
}

AudioSpec unified_audio(const ConfigReader& config) {
  // Four names of one width, in samples; 640 are 40 ms.
  std::optional<std::int64_t> width;
  for (const char* key :
       {"audio_embed_dim", "audio_samples_per_token", "hidden_size", "output_proj_dims"}) {
    const auto given = config.optional_integer(key, 1, kMaxWidth);
    if (given && width && *given != *width) {
      config.refuse(key, std::to_string(*width) + " like the fields before it");
    }
    if (given) width = given;
  }
  return {.encoder = {},
          .projector = {width.value_or(640), config.number_or("rms_norm_eps", kNormEps, 0.0, 1.0)}};
}

using NameTable = std::map<std::string, SourceNames>;

const NameTable& names_of_model() {
  const auto norm = [](const std::string& name) {
    return SourceNames{{"vision_embedder." + name + ".weight", "vision_embedder." + name + ".bias"},
                       "",
                       {"embed_vision." + name + ".weight", "embed_vision." + name + ".bias"}};
  };
  const auto one = [](const std::string& name) {
    return SourceNames{{"vision_embedder." + name}, "", {"embed_vision." + name}};
  };
  static const NameTable kNames = {
      {"vision.encoder.patches", {{"vision_tower.patch_embedder.input_proj.weight"}}},
      {"vision.encoder.positions", {{"vision_tower.patch_embedder.position_embedding_table"}}},
      {"vision.encoder.std_bias", {{"vision_tower.std_bias"}}},
      {"vision.encoder.std_scale", {{"vision_tower.std_scale"}}},
      {"vision.embedder.ln1", norm("patch_ln1")},
      {"vision.embedder.dense", one("patch_dense.weight")},
      {"vision.embedder.dense_bias", one("patch_dense.bias")},
      {"vision.embedder.ln2", norm("patch_ln2")},
      {"vision.embedder.positions", one("pos_embedding")},
      {"vision.embedder.ln_out", norm("pos_norm")},
      {"vision.projection",
       {{"embed_vision.embedding_projection.weight"},
        "",
        {"embed_vision.multimodal_embedder.embedding_projection.weight"}}},
      {"audio.encoder.subsample.0.conv",
       {{"audio_tower.subsample_conv_projection.layer0.conv.weight"}}},
      {"audio.encoder.subsample.0.norm",
       {{"audio_tower.subsample_conv_projection.layer0.norm.weight"}}},
      {"audio.encoder.subsample.1.conv",
       {{"audio_tower.subsample_conv_projection.layer1.conv.weight"}}},
      {"audio.encoder.subsample.1.norm",
       {{"audio_tower.subsample_conv_projection.layer1.norm.weight"}}},
      {"audio.encoder.embed", {{"audio_tower.subsample_conv_projection.input_proj_linear.weight"}}},
      {"audio.encoder.out", {{"audio_tower.output_proj.weight"}}},
      {"audio.encoder.out_bias", {{"audio_tower.output_proj.bias"}}},
      {"audio.projection", {{"embed_audio.embedding_projection.weight"}}},
  };
  return kNames;
}

// The bounds of clamping matrices, in the order of an ops::Clip.
SourceNames bounds(const std::vector<std::string>& matrices) {
  SourceNames names;
  for (const std::string& matrix : matrices) {
    for (const char* bound : {".input_min", ".input_max", ".output_min", ".output_max"}) {
      names.parts.push_back(matrix + bound);
    }
  }
  return names;
}

// Without "vision_tower.encoder.layers.3." and "vision.encoder.layers.3.".
const NameTable& names_of_vision_layer() {
  static const NameTable kNames = {
      {"ln1", {{"input_layernorm.weight"}}},
      {"attention.qkv",
       {{"self_attn.q_proj.linear.weight", "self_attn.k_proj.linear.weight",
         "self_attn.v_proj.linear.weight"}}},
      {"attention.out", {{"self_attn.o_proj.linear.weight"}}},
      {"attention.q_norm", {{"self_attn.q_norm.weight"}}},
      {"attention.k_norm", {{"self_attn.k_norm.weight"}}},
      {"attention.clips",
       bounds({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"})},
      {"ln1_post", {{"post_attention_layernorm.weight"}}},
      {"ln2", {{"pre_feedforward_layernorm.weight"}}},
      {"mlp.gate_up", {{"mlp.gate_proj.linear.weight", "mlp.up_proj.linear.weight"}}},
      {"mlp.down", {{"mlp.down_proj.linear.weight"}}},
      {"mlp.clips", bounds({"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"})},
      {"ln2_post", {{"post_feedforward_layernorm.weight"}}},
  };
  return kNames;
}

// Without "audio_tower.layers.3." and "audio.encoder.layers.3."; matrices with ".linear.weight"
// behind them and bounds beside them.
const std::map<std::string, std::string>& matrices_of_audio_layer() {
  static const std::map<std::string, std::string> kNames = {
      {"ff1.up", "feed_forward1.ffw_layer_1"}, {"ff1.down", "feed_forward1.ffw_layer_2"},
      {"ff2.up", "feed_forward2.ffw_layer_1"}, {"ff2.down", "feed_forward2.ffw_layer_2"},
      {"attention.q", "self_attn.q_proj"},     {"attention.k", "self_attn.k_proj"},
      {"attention.v", "self_attn.v_proj"},     {"attention.out", "self_attn.post"},
      {"conv.start", "lconv1d.linear_start"},  {"conv.end", "lconv1d.linear_end"},
  };
  return kNames;
}

const std::map<std::string, std::string>& others_of_audio_layer() {
  static const std::map<std::string, std::string> kNames = {
      {"ff1.norm", "feed_forward1.pre_layer_norm.weight"},
      {"ff1.post_norm", "feed_forward1.post_layer_norm.weight"},
      {"ff2.norm", "feed_forward2.pre_layer_norm.weight"},
      {"ff2.post_norm", "feed_forward2.post_layer_norm.weight"},
      {"attention.norm", "norm_pre_attn.weight"},
      {"attention.post_norm", "norm_post_attn.weight"},
      {"attention.relative", "self_attn.relative_k_proj.weight"},
      {"attention.per_dim_scale", "self_attn.per_dim_scale"},
      {"conv.norm", "lconv1d.pre_layer_norm.weight"},
      {"conv.depthwise", "lconv1d.depthwise_conv1d.weight"},
      {"conv.conv_norm", "lconv1d.conv_norm.weight"},
      {"norm_out", "norm_out.weight"},
  };
  return kNames;
}

SourceNames names_of_audio_layer(const std::string& slot) {
  constexpr std::string_view kClips = "_clips";
  if (slot.ends_with(kClips)) {
    const auto matrix = slot.substr(0, slot.size() - kClips.size());
    return bounds({matrices_of_audio_layer().at(matrix)});
  }
  const auto matrix = matrices_of_audio_layer().find(slot);
  if (matrix != matrices_of_audio_layer().end()) return {{matrix->second + ".linear.weight"}};
  return {{others_of_audio_layer().at(slot)}};
}

}  // namespace

void read(const ConfigReader& top, bool unified, ModelSpec& spec) {
  const auto id = [&](const char* key, std::int64_t absent) -> std::optional<std::int64_t> {
    if (top.json().contains(key)) return top.optional_integer(key, 0, spec.d_vocab - 1);
    return absent < spec.d_vocab ? std::optional(absent) : std::nullopt;
  };
  const auto vision_config = top.optional_object("vision_config");
  const auto audio_config = top.optional_object("audio_config");
  if (!vision_config && !audio_config) return;
  spec.media_ids = {id("image_token_id", 258'880), id("video_token_id", 258'884),
                    id("audio_token_id", 258'881)};
  if (vision_config) {
    spec.vision = unified ? unified_vision(*vision_config) : vision(*vision_config);
  }
  if (audio_config) spec.audio = unified ? unified_audio(*audio_config) : audio(*audio_config);
}

std::vector<std::string> parts(const ModelSpec& spec) {
  std::vector<std::string> parts;
  if (spec.vision) parts = {"vision_tower.", "vision_embedder.", "embed_vision."};
  if (spec.audio) parts.insert(parts.end(), {"audio_tower.", "embed_audio."});
  return parts;
}

bool owns(const std::string& slot) {
  return slot.starts_with("vision.") || slot.starts_with("audio.");
}

SourceNames names(const std::string& slot) {
  const std::string vision_layers = "vision.encoder.layers.",
                    audio_layers = "audio.encoder.layers.";
  const bool is_vision = slot.starts_with(vision_layers), is_audio = slot.starts_with(audio_layers);
  if (!is_vision && !is_audio) return names_of_model().at(slot);
  const std::size_t begin = (is_vision ? vision_layers : audio_layers).size();
  const std::size_t end = slot.find('.', begin) + 1;
  const std::string rest = slot.substr(end);
  SourceNames names = is_vision ? names_of_vision_layer().at(rest) : names_of_audio_layer(rest);
  const std::string layers = is_vision ? "vision_tower.encoder.layers." : "audio_tower.layers.";
  for (std::string& part : names.parts) part = layers + slot.substr(begin, end - begin) + part;
  return names;
}

}  // namespace bezel::adapters::gemma4_media
