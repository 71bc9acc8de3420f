// Gemma 4: E2B, E4B, 12B (unified), 26B-A4B and 31B. Field meanings and defaults follow
// transformers 5.17 (models/gemma4/configuration_gemma4.py), read from the raw config.json, which
// has two forms: published files say global_head_dim, files saved again say per_layer_config.
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "bezel/adapters/adapter.h"
#include "bezel/adapters/checkpoint/config_reader.h"
#include "bezel/adapters/gemma4_media.h"

namespace bezel::adapters {
namespace {

using bridge::AttentionSpec;
using bridge::LayerSpec;
using bridge::ModelSpec;
using checkpoint::ConfigReader;

// Generous: the widest published tensor has 262,144 rows.
constexpr std::int64_t kMaxWidth = 1 << 20;
constexpr std::int64_t kMaxVocab = 1 << 24;
constexpr std::int64_t kMaxLayers = 4096;
constexpr std::int64_t kMaxTokens = 1 << 30;
constexpr double kSmallest = 1e-30;           // of what must be positive
constexpr std::int64_t kGlobalHeadDim = 512;  // the reference's default for full layers
constexpr const char* kSliding = "sliding_attention";
constexpr const char* kFull = "full_attention";

/// The text part of the configuration and how its class differs in defaults.
struct TextConfig {
  ConfigReader fields;
  bool unified;
};

TextConfig text_config(const ConfigReader& top) {
  const std::string type = top.string("model_type");
  const bool unified = type.starts_with("gemma4_unified");
  return {type.ends_with("_text") ? top : top.object("text_config"), unified};
}

std::vector<std::string> five_to_one(std::int64_t n_layers) {
  std::vector<std::string> types;
  for (std::int64_t i = 1; i <= n_layers; ++i) types.push_back(i % 6 == 0 ? kFull : kSliding);
  return types;
}

std::vector<std::string> layer_types(const ConfigReader& text, std::int64_t n_layers) {
  auto types = text.optional_strings("layer_types").value_or(five_to_one(n_layers));
  if (static_cast<std::int64_t>(types.size()) != n_layers) {
    text.refuse("layer_types", "one entry for each of the " + std::to_string(n_layers) + " layers");
  }
  for (const std::string& type : types) {
    if (type != kSliding && type != kFull) {
      text.unsupported("layer_types", "only \"sliding_attention\" and \"full_attention\"");
    }
  }
  types.back() = kFull;  // the reference forces it
  return types;
}

struct HeadShape {
  std::int64_t d_head, n_kv_heads;
};

HeadShape overridden(const ConfigReader& layer, HeadShape base) {
  for (const std::string& key : layer.keys()) {
    if (key != "head_dim" && key != "num_key_value_heads") {
      layer.unsupported(key, "only head_dim and num_key_value_heads to differ between layers");
    }
  }
  return {layer.integer_or("head_dim", base.d_head, 2, kMaxWidth),
          layer.integer_or("num_key_value_heads", base.n_kv_heads, 1, kMaxWidth)};
}

HeadShape head_shape(const ConfigReader& text, int layer, bool full) {
  const HeadShape base = {text.integer("head_dim", 2, kMaxWidth),
                          text.integer("num_key_value_heads", 1, kMaxWidth)};
  if (const auto per_layer = text.optional_object("per_layer_config")) {
    const auto own = per_layer->optional_object(std::to_string(layer));
    return own ? overridden(*own, base) : base;
  }
  if (!full) return base;
  HeadShape shape = {text.integer_or("global_head_dim", kGlobalHeadDim, 2, kMaxWidth),
                     base.n_kv_heads};
  if (text.boolean_or("attention_k_eq_v", false)) {
    shape.n_kv_heads = text.integer_or("num_global_key_value_heads", base.n_kv_heads, 1, kMaxWidth);
  }
  return shape;
}

bridge::RopeSpec rope(const ConfigReader& text, bool full, std::int64_t d_head) {
  if (!text.has("rope_parameters")) {
    const auto n_pairs = full ? d_head / 8 : d_head / 2;  // factor 0.25 of d_head/2 pairs
    return {full ? 1e6 : 1e4, n_pairs};
  }
  const ConfigReader fields = text.object("rope_parameters").object(full ? kFull : kSliding);
  const double theta = fields.number("rope_theta", kSmallest);
  if (fields.number_or("factor", 1.0) != 1.0) fields.unsupported("factor", "1 or nothing");
  const std::string type = fields.string_or("rope_type", "default");
  if (type == "default") return {theta, d_head / 2};
  if (type != "proportional") fields.unsupported("rope_type", "\"default\" or \"proportional\"");
  const double factor = fields.number_or("partial_rotary_factor", 1.0, 0.0, 1.0);
  const auto n_pairs = std::floor(factor * static_cast<double>(d_head) / 2);
  return {theta, static_cast<std::int64_t>(n_pairs)};
}

AttentionSpec attention(const ConfigReader& text, int layer, bool full, std::int64_t window) {
  const HeadShape shape = head_shape(text, layer, full);
  AttentionSpec spec;
  spec.n_heads = text.integer("num_attention_heads", 1, kMaxWidth);
  spec.n_kv_heads = shape.n_kv_heads;
  spec.d_head = shape.d_head;
  if (spec.n_heads % spec.n_kv_heads != 0) {
    text.refuse("num_attention_heads", "a multiple of the " + std::to_string(spec.n_kv_heads) +
                                           " key/value heads of layer " + std::to_string(layer));
  }
  if (spec.d_head % 2 != 0) text.refuse("head_dim", "even widths: RoPE turns pairs");
  if (!full) spec.window_tokens = window;
  spec.rope = rope(text, full, spec.d_head);
  spec.k_is_v = full && text.boolean_or("attention_k_eq_v", false);
  return spec;
}

// Sharing layers read the last layer of their own kind before the first sharing one.
void share_keys_values(const ConfigReader& text, const std::vector<std::string>& types,
                       ModelSpec& spec) {
  const auto n_shared = text.integer_or("num_kv_shared_layers", 0, 0, spec.n_layers);
  const auto first_shared = static_cast<int>(spec.n_layers - n_shared);
  for (int layer = first_shared; layer < spec.n_layers; ++layer) {
    int donor = first_shared - 1;
    while (donor >= 0 && types[donor] != types[layer]) --donor;
    if (donor < 0) {
      text.refuse("num_kv_shared_layers", "a layer of type \"" + types[layer] +
                                              "\" before the first sharing layer " +
                                              std::to_string(first_shared));
    }
    spec.layers[layer].attention.donor = donor;
    spec.layers[donor].attention.donates = true;
  }
}

std::optional<bridge::MoeSpec> moe(const TextConfig& config) {
  const ConfigReader& text = config.fields;
  if (config.unified || !text.boolean_or("enable_moe_block", false)) return std::nullopt;
  bridge::MoeSpec spec;
  spec.n_experts = text.integer("num_experts", 1, kMaxWidth);
  spec.n_chosen = text.integer("top_k_experts", 1, spec.n_experts);
  spec.d_expert = text.integer("moe_intermediate_size", 1, kMaxWidth);
  return spec;
}

void refuse_what_is_not_computed(const ConfigReader& text) {
  if (text.string_or("hidden_activation", "gelu_pytorch_tanh") != "gelu_pytorch_tanh") {
    text.unsupported("hidden_activation", "\"gelu_pytorch_tanh\"");
  }
  if (text.boolean_or("attention_bias", false)) text.unsupported("attention_bias", "false");
}

bridge::Bidirectional bidirectional(const TextConfig& config) {
  const auto mode = config.fields.optional_string("use_bidirectional_attention");
  // The unified class attends both ways unless the file says null.
  const bool absent = !config.fields.json().contains("use_bidirectional_attention");
  if (absent && config.unified) return bridge::Bidirectional::kVision;
  if (!mode) return bridge::Bidirectional::kNone;
  if (*mode != "vision") {
    config.fields.unsupported("use_bidirectional_attention", "\"vision\" or null");
  }
  return bridge::Bidirectional::kVision;
}

void read_layers(const TextConfig& config, ModelSpec& spec) {
  const ConfigReader& text = config.fields;
  const auto types = layer_types(text, spec.n_layers);
  const auto window = text.integer_or("sliding_window", config.unified ? 1024 : 512, 1, kMaxTokens);
  const auto d_mlp = text.integer("intermediate_size", 1, kMaxWidth);
  const bool wide = text.boolean_or("use_double_wide_mlp", false);
  for (int layer = 0; layer < spec.n_layers; ++layer) {
    spec.layers.push_back(
        {attention(text, layer, types[layer] == kFull, window), {d_mlp}, moe(config)});
  }
  share_keys_values(text, types, spec);
  for (LayerSpec& layer : spec.layers) {
    if (wide && layer.attention.donor) layer.mlp.d_mlp *= 2;
  }
}

ModelSpec read_spec(const ConfigReader& top) {
  const TextConfig config = text_config(top);
  const ConfigReader& text = config.fields;
  refuse_what_is_not_computed(text);
  ModelSpec spec;
  spec.family = "gemma4";
  spec.n_layers = text.integer("num_hidden_layers", 1, kMaxLayers);
  spec.n_heads = text.integer("num_attention_heads", 1, kMaxWidth);
  spec.d_model = text.integer("hidden_size", 1, kMaxWidth);
  spec.d_vocab = text.integer("vocab_size", 1, kMaxVocab);
  if (!config.unified) {
    spec.d_ple = text.integer_or("hidden_size_per_layer_input", 256, 0, kMaxWidth);
    spec.d_vocab_ple = text.integer_or("vocab_size_per_layer_input", spec.d_vocab, 1, kMaxVocab);
  }
  spec.max_positions =
      text.integer_or("max_position_embeddings", config.unified ? 262'144 : 131'072, 1, kMaxTokens);
  spec.norm_eps = text.number_or("rms_norm_eps", 1e-6, 0.0, 1.0);
  spec.tied_head = top.boolean_or("tie_word_embeddings", true);
  spec.softcap = text.optional_number("final_logit_softcapping", kSmallest);
  spec.bidirectional = bidirectional(config);
  spec.eos_token_ids =
      (top.has("eos_token_id") ? top : text).one_or_many_integers("eos_token_id", 0, kMaxVocab);
  spec.pad_token_id = text.optional_integer("pad_token_id", 0, kMaxVocab);
  spec.bos_token_id = text.optional_integer("bos_token_id", 0, kMaxVocab);
  read_layers(config, spec);
  gemma4_media::read(top, config.unified, spec);
  return spec;
}

using NameTable = std::map<std::string, SourceNames>;

const NameTable& names_in_model() {
  static const NameTable kNames = {
      {"embed", {{"embed_tokens.weight"}}},
      {"ln_final", {{"norm.weight"}}},
      {"ple.table", {{"embed_tokens_per_layer.weight"}}},
      {"ple.projection", {{"per_layer_model_projection.weight"}}},
      {"ple.norm", {{"per_layer_projection_norm.weight"}}},
  };
  return kNames;
}

// Without "layers.3." in slot and name.
const NameTable& names_in_layer() {
  static const NameTable kNames = {
      {"ln1", {{"input_layernorm.weight"}}},
      {"attention.qkv",
       {{"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"},
        "self_attn.qkv_proj.weight"}},
      {"attention.out", {{"self_attn.o_proj.weight"}}},
      {"attention.q_norm", {{"self_attn.q_norm.weight"}}},
      {"attention.k_norm", {{"self_attn.k_norm.weight"}}},
      {"ln1_post", {{"post_attention_layernorm.weight"}}},
      {"ln2", {{"pre_feedforward_layernorm.weight"}}},
      {"mlp.gate_up", {{"mlp.gate_proj.weight", "mlp.up_proj.weight"}, "mlp.gate_up_proj.weight"}},
      {"mlp.down", {{"mlp.down_proj.weight"}}},
      {"moe.router_scale", {{"router.scale"}}},
      {"moe.router", {{"router.proj.weight"}}},
      {"moe.per_expert_scale", {{"router.per_expert_scale"}}},
      {"moe.gate_up", {{"experts.gate_up_proj"}}},
      {"moe.down", {{"experts.down_proj"}}},
      {"moe.ln2_dense_post", {{"post_feedforward_layernorm_1.weight"}}},
      {"moe.ln2_moe", {{"pre_feedforward_layernorm_2.weight"}}},
      {"moe.ln2_moe_post", {{"post_feedforward_layernorm_2.weight"}}},
      {"ln2_post", {{"post_feedforward_layernorm.weight"}}},
      {"ple.gate", {{"per_layer_input_gate.weight"}}},
      {"ple.projection", {{"per_layer_projection.weight"}}},
      {"ple.post_norm", {{"post_per_layer_input_norm.weight"}}},
      {"layer_scalar", {{"layer_scalar"}}},
  };
  return kNames;
}

SourceNames source_names(const std::string& slot) {
  constexpr std::string_view kLayers = "layers.";
  if (gemma4_media::owns(slot)) return gemma4_media::names(slot);
  if (!slot.starts_with(kLayers)) return names_in_model().at(slot);
  const std::size_t end = slot.find('.', kLayers.size()) + 1;
  const std::string layer = slot.substr(0, end);
  SourceNames names = names_in_layer().at(slot.substr(end));
  for (std::string& part : names.parts) part = layer + part;
  if (!names.joint.empty()) names.joint = layer + names.joint;
  return names;
}

// Published E2B and E4B files carry the projections that sharing layers once had.
bool is_unused(const ModelSpec& spec, const std::string& name) {
  for (int layer = 0; layer < spec.n_layers; ++layer) {
    if (!spec.layers[layer].attention.donor) continue;
    const std::string prefix = "layers." + std::to_string(layer) + ".self_attn.";
    for (const char* part : {"k_proj.weight", "v_proj.weight", "k_norm.weight", "v_norm.weight"}) {
      if (name == prefix + part) return true;
    }
  }
  return false;
}

}  // namespace

const Adapter& gemma4() {
  static const Adapter kAdapter = {
      .family = "gemma4",
      .model_types = {"gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"},
      .read_spec = read_spec,
      .prefixes = {{"model.language_model.", "model."}, {"model.", "model."}},
      .embed = "embed_tokens.weight",
      .head = "lm_head.weight",
      .source_names = source_names,
      .media_parts = gemma4_media::parts,
      .is_unused = is_unused,
  };
  return kAdapter;
}

}  // namespace bezel::adapters
