// THE table: every value inside a model that has a name. Everything else (ids, axis checks, the
// Python stub, the reference page) is generated from it. Names are TransformerLens's where it has
// one. A row of a layer stands once; its full name carries the layer: blocks.3.attn.hook_z.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "bezel/hooks/axes.h"

namespace bezel::hooks {

/// Where a row exists; evaluated for each layer of a model, because Gemma 4's layers differ.
enum class Where : std::uint8_t {
  kModel,            // once a run
  kModelPle,         // once a run, where the model has per-layer embeddings
  kVision,           // the vision encoder
  kVisionEmbedder,   // what stands in its place in a model without one
  kVisionProjector,  // from either to the text model's width
  kAudio,            // the audio encoder
  kAudioProjector,
  kBlock,      // every block, of text, vision and audio
  kBlockKv,    // blocks of any of them that compute their own keys and values
  kLayer,      // every block of text and vision
  kOwnKv,      // those of them that compute their own keys and values
  kSharedKv,   // blocks that read another block's keys and values
  kMoe,        // blocks with a mixture of experts
  kPle,        // blocks with a per-layer embedding
  kConformer,  // blocks of the audio encoder
};
inline constexpr auto kWhereWords = std::to_array<std::string_view>(
    {"model", "model_ple", "vision", "vision_embedder", "vision_projector", "audio",
     "audio_projector", "block", "block_kv", "layer", "own_kv", "shared_kv", "moe", "ple",
     "conformer"});
inline constexpr std::size_t kNWheres = kWhereWords.size();

constexpr std::string_view to_string(Where where) {
  return kWhereWords[static_cast<std::size_t>(where)];
}

/// Rows of the encoders of images and sound that stand outside of blocks.
constexpr bool is_of_images(Where where) {
  return where >= Where::kVision && where <= Where::kVisionProjector;
}
constexpr bool is_of_sound(Where where) {
  return where == Where::kAudio || where == Where::kAudioProjector;
}
constexpr bool is_of_media(Where where) { return is_of_images(where) || is_of_sound(where); }
constexpr bool is_in_layer(Where where) { return where >= Where::kBlock; }

namespace detail {
template <bool kInLayer>
constexpr auto wheres() {
  constexpr auto kNInLayer = kNWheres - static_cast<std::size_t>(Where::kBlock);
  std::array<Where, kInLayer ? kNInLayer : kNWheres - kNInLayer> chosen{};
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    chosen[i] = static_cast<Where>(i + (kInLayer ? kNWheres - kNInLayer : 0));
  }
  return chosen;
}
}  // namespace detail
inline constexpr auto kModelWheres = detail::wheres<false>();
inline constexpr auto kLayerWheres = detail::wheres<true>();

enum class Access : std::uint8_t {
  kEdit,      // editable, and part of the default cache
  kOnDemand,  // editable, but cached only when named
};

constexpr std::string_view to_string(Access access) {
  return access == Access::kOnDemand ? "on_demand" : "edit";
}

enum class ValueType : std::uint8_t {
  kModelType,  // the dtype the model runs in
  kWide,       // float32, or float64 when the model runs in it
  kInt64,
};

struct HookPoint {
  std::string_view name;
  AxisList axes;
  Where where;
  Access access;
  ValueType type;
  std::string_view meaning;
};

namespace table {
using enum Where;
using enum Access;
using enum ValueType;
// clang-format off
/// In forward order.
inline constexpr auto kRows = std::to_array<HookPoint>({
    {"hook_tokens", "batch pos", kModel, kEdit, kInt64, "token ids"},
    {"hook_embed", "batch pos d_model", kModel, kEdit, kModelType, "token embedding after its scale, before media features are merged"},

    {"vision_encoder.hook_patches", "image patch d_patch", kVision, kEdit, kModelType, "pixels after 2(x - 0.5), as they enter the projection"},
    {"vision_encoder.hook_embed", "image patch d_vision", kVision, kEdit, kModelType, "patches after their projection"},
    {"vision_encoder.hook_pos_embed", "image patch d_vision", kVision, kEdit, kModelType, "position embedding that is added: column's and row's; zero at padding"},
    {"vision_encoder.hook_pooled", "soft d_vision", kVision, kEdit, kWide, "mean over each square of patches, times sqrt(d_vision), before standardising"},
    {"vision_encoder.hook_out", "soft d_vision", kVision, kEdit, kModelType, "what the projector gets"},
    {"vision_embedder.hook_patches", "image patch d_patch", kVisionEmbedder, kEdit, kModelType, "pixels as they enter"},
    {"vision_embedder.hook_ln1", "image patch d_patch", kVisionEmbedder, kEdit, kModelType, "pixels after their layer norm"},
    {"vision_embedder.hook_dense", "image patch d_vision", kVisionEmbedder, kEdit, kModelType, "after the projection"},
    {"vision_embedder.hook_ln2", "image patch d_vision", kVisionEmbedder, kEdit, kModelType, "vision_embedder.hook_dense after its layer norm"},
    {"vision_embedder.hook_pos_embed", "image patch d_vision", kVisionEmbedder, kEdit, kModelType, "position embedding that is added to vision_embedder.hook_ln2; zero at padding"},
    {"vision_embedder.hook_out", "image patch d_vision", kVisionEmbedder, kEdit, kModelType, "after the last layer norm"},
    {"vision_projector.hook_in", "soft d_vision", kVisionProjector, kEdit, kModelType, "soft tokens of all images, padding left out"},
    {"vision_projector.hook_scale", "soft 1", kVisionProjector, kEdit, kWide, "root-mean-square of vision_projector.hook_in"},
    {"vision_projector.hook_normalized", "soft d_vision", kVisionProjector, kEdit, kWide, "vision_projector.hook_in / scale"},
    {"vision_projector.hook_out", "soft d_model", kVisionProjector, kEdit, kModelType, "features as they are put into the text"},
    {"audio_encoder.hook_features", "audio mel_frame mel", kAudio, kEdit, kModelType, "log-mel features as they enter"},
    {"audio_encoder.subsample.0.hook_out", "audio half_frame half_mel channel_0", kAudio, kEdit, kModelType, "after the first convolution, its norm and ReLU"},
    {"audio_encoder.subsample.1.hook_out", "audio frame quarter_mel channel_1", kAudio, kEdit, kModelType, "after the second convolution, its norm and ReLU"},
    {"audio_encoder.hook_embed", "audio frame d_audio", kAudio, kEdit, kModelType, "after the projection that follows them"},
    {"audio_encoder.hook_out", "audio frame d_audio_out", kAudio, kEdit, kModelType, "after the output projection"},
    {"audio_projector.hook_in", "audio frame d_audio_out", kAudioProjector, kEdit, kModelType, "what the audio projector gets; without an encoder, the raw frames"},
    {"audio_projector.hook_scale", "audio frame 1", kAudioProjector, kEdit, kWide, "root-mean-square of audio_projector.hook_in"},
    {"audio_projector.hook_normalized", "audio frame d_audio_out", kAudioProjector, kEdit, kWide, "audio_projector.hook_in / scale"},
    {"audio_projector.hook_out", "audio frame d_model", kAudioProjector, kEdit, kModelType, "features; those of valid frames are put into the text"},
    {"hook_full_embed", "batch pos d_model", kModel, kEdit, kModelType, "after the merge of media features; feeds the stream and the context part of the per-layer embeddings"},
    {"ple.hook_token", "batch pos layer d_ple", kModelPle, kEdit, kModelType, "per-layer embeddings, token-identity part, after its scale"},
    {"ple.hook_context", "batch pos layer d_ple", kModelPle, kEdit, kModelType, "per-layer embeddings, context part, projected and normed"},
    {"ple.hook_inputs", "batch pos layer d_ple", kModelPle, kEdit, kModelType, "per-layer embeddings, both parts combined, as handed to the layers"},

    {"hook_resid_pre", "batch pos d_model", kBlock, kEdit, kModelType, "stream entering the block"},
    {"ff1.hook_pre", "audio frame d_mlp", kConformer, kEdit, kModelType, "first feed-forward, before the activation"},
    {"ff1.hook_post", "audio frame d_mlp", kConformer, kEdit, kModelType, "first feed-forward, after the activation"},
    {"ff1.hook_out", "audio frame d_audio", kConformer, kEdit, kModelType, "first tensor added to the stream: after its norm and the factor 1/2"},
    {"hook_attn_in", "batch pos d_model", kLayer, kOnDemand, kModelType, "stream as the attention branch sees it, before ln1; the skip path is untouched"},
    {"ln1.hook_scale", "batch pos 1", kLayer, kEdit, kWide, "root-mean-square of the input of ln1"},
    {"ln1.hook_normalized", "batch pos d_model", kLayer, kEdit, kWide, "input of ln1 / scale, before the gain"},
    {"hook_q_input", "batch pos head d_model", kLayer, kOnDemand, kModelType, "per-head copies of hook_attn_in for the queries alone"},
    {"attn.hook_q", "batch pos head d_head", kBlock, kEdit, kModelType, "query projection, before its norm"},
    {"hook_k_input", "batch pos kv_head d_model", kOwnKv, kOnDemand, kModelType, "per-head copies of hook_attn_in for the keys alone"},
    {"attn.hook_k", "batch pos kv_head d_head", kBlockKv, kEdit, kModelType, "key projection, before its norm"},
    {"hook_v_input", "batch pos kv_head d_model", kOwnKv, kOnDemand, kModelType, "per-head copies of hook_attn_in for the values alone"},
    {"attn.hook_v", "batch pos kv_head d_head", kBlockKv, kEdit, kModelType, "value projection, before its norm; where K == V, the value branch taken from the key projection"},
    {"attn.hook_q_normed", "batch pos head d_head", kLayer, kEdit, kModelType, "queries after q_norm"},
    {"attn.hook_rot_q", "batch pos head d_head", kLayer, kEdit, kModelType, "queries after RoPE"},
    {"attn.hook_k_normed", "batch pos kv_head d_head", kOwnKv, kEdit, kModelType, "keys after k_norm"},
    {"attn.hook_v_normed", "batch pos kv_head d_head", kOwnKv, kEdit, kModelType, "values after the weightless v_norm"},
    {"attn.hook_rot_k", "batch pos kv_head d_head", kOwnKv, kEdit, kModelType, "keys after RoPE: what the KV cache and the layers that share them get"},
    {"attn.hook_shared_k", "batch k_pos kv_head d_head", kSharedKv, kEdit, kModelType, "the donor's keys as this layer consumes them"},
    {"attn.hook_shared_v", "batch k_pos kv_head d_head", kSharedKv, kEdit, kModelType, "the donor's values as this layer consumes them"},
    {"attn.hook_attn_scores", "batch head q_pos k_pos", kBlock, kEdit, kModelType, "scores after the mask, before softmax"},
    {"attn.hook_pattern", "batch head q_pos k_pos", kBlock, kEdit, kModelType, "after softmax; rows sum to one"},
    {"attn.hook_z", "batch pos head d_head", kBlock, kEdit, kModelType, "pattern times values"},
    {"attn.hook_result", "batch pos head d_model", kLayer, kOnDemand, kModelType, "each head's contribution; sums to attn.hook_out"},
    {"attn.hook_out", "batch pos d_model", kLayer, kEdit, kModelType, "after the output projection, before the post-norm"},
    {"ln1_post.hook_scale", "batch pos 1", kLayer, kEdit, kWide, "root-mean-square of attn.hook_out"},
    {"ln1_post.hook_normalized", "batch pos d_model", kLayer, kEdit, kWide, "attn.hook_out / scale, before the gain"},
    {"hook_attn_out", "batch pos d_model", kBlock, kEdit, kModelType, "the tensor added to the stream: resid_pre + attn_out = resid_mid"},
    {"hook_resid_mid", "batch pos d_model", kLayer, kEdit, kModelType, "the stream after attention: an edit changes the skip path and the MLP input"},
    {"hook_mlp_in", "batch pos d_model", kLayer, kOnDemand, kModelType, "stream as the MLP branch (dense, experts and router) sees it; the skip path is untouched"},
    {"ln2.hook_scale", "batch pos 1", kLayer, kEdit, kWide, "root-mean-square of the input of ln2"},
    {"ln2.hook_normalized", "batch pos d_model", kLayer, kEdit, kWide, "input of ln2 / scale, before the gain"},
    {"mlp.hook_pre", "batch pos d_mlp", kLayer, kEdit, kModelType, "gate projection, before the activation"},
    {"mlp.hook_pre_linear", "batch pos d_mlp", kLayer, kEdit, kModelType, "up projection"},
    {"mlp.hook_post", "batch pos d_mlp", kLayer, kEdit, kModelType, "act(gate) * up"},
    {"mlp.hook_out", "batch pos d_model", kLayer, kEdit, kModelType, "after the down projection, before any post-norm"},
    {"ln2_dense_post.hook_scale", "batch pos 1", kMoe, kEdit, kWide, "root-mean-square of mlp.hook_out"},
    {"ln2_dense_post.hook_normalized", "batch pos d_model", kMoe, kEdit, kWide, "mlp.hook_out / scale, before the gain"},
    {"moe.hook_router_logits", "batch pos expert", kMoe, kEdit, kModelType, "router scores, before softmax"},
    {"moe.hook_router_probs", "batch pos expert", kMoe, kEdit, kWide, "router probabilities"},
    {"moe.hook_expert_indices", "batch pos k", kMoe, kEdit, kInt64, "the experts chosen; an edit forces experts, and dispatch follows it"},
    {"moe.hook_expert_weights", "batch pos k", kMoe, kEdit, kWide, "weights of the chosen experts, renormalised and scaled"},
    {"ln2_moe.hook_scale", "batch pos 1", kMoe, kEdit, kWide, "root-mean-square of the input of the experts' norm"},
    {"ln2_moe.hook_normalized", "batch pos d_model", kMoe, kEdit, kWide, "input of the experts' norm / scale, before the gain"},
    {"moe.hook_expert_pre", "batch pos k d_expert", kMoe, kOnDemand, kModelType, "gate projection of each chosen expert"},
    {"moe.hook_expert_pre_linear", "batch pos k d_expert", kMoe, kOnDemand, kModelType, "up projection of each chosen expert"},
    {"moe.hook_expert_post", "batch pos k d_expert", kMoe, kOnDemand, kModelType, "act(gate) * up of each chosen expert"},
    {"moe.hook_expert_out", "batch pos k d_model", kMoe, kOnDemand, kModelType, "weighted output of each chosen expert; sums to moe.hook_out"},
    {"moe.hook_out", "batch pos d_model", kMoe, kEdit, kModelType, "sum of the chosen experts, before its norm"},
    {"ln2_moe_post.hook_scale", "batch pos 1", kMoe, kEdit, kWide, "root-mean-square of moe.hook_out"},
    {"ln2_moe_post.hook_normalized", "batch pos d_model", kMoe, kEdit, kWide, "moe.hook_out / scale, before the gain"},
    {"ln2_post.hook_scale", "batch pos 1", kLayer, kEdit, kWide, "root-mean-square of the feed-forward sum"},
    {"ln2_post.hook_normalized", "batch pos d_model", kLayer, kEdit, kWide, "feed-forward sum / scale, before the gain"},
    {"hook_mlp_out", "batch pos d_model", kLayer, kEdit, kModelType, "the tensor added to the stream (dense + experts, after the post-norm)"},
    {"ple.hook_gate", "batch pos d_ple", kPle, kEdit, kModelType, "gate of the per-layer embedding, before the activation"},
    {"ple.hook_input", "batch pos d_ple", kPle, kEdit, kModelType, "this layer's slice of ple.hook_inputs"},
    {"ple.hook_post", "batch pos d_ple", kPle, kEdit, kModelType, "act(gate) * input"},
    {"ple_post.hook_scale", "batch pos 1", kPle, kEdit, kWide, "root-mean-square of the projected per-layer embedding"},
    {"ple_post.hook_normalized", "batch pos d_model", kPle, kEdit, kWide, "projected per-layer embedding / scale, before the gain"},
    {"hook_ple_out", "batch pos d_model", kPle, kEdit, kModelType, "the tensor added to the stream"},
    {"conv.hook_pre", "audio frame d_glu", kConformer, kEdit, kModelType, "light convolution, both halves before the gate"},
    {"conv.hook_glu", "audio frame d_audio", kConformer, kEdit, kModelType, "first half * sigmoid(second half)"},
    {"conv.hook_conv", "audio frame d_audio", kConformer, kEdit, kModelType, "after the causal depthwise convolution"},
    {"conv.hook_out", "audio frame d_audio", kConformer, kEdit, kModelType, "the tensor added to the stream, after the end projection"},
    {"ff2.hook_pre", "audio frame d_mlp", kConformer, kEdit, kModelType, "second feed-forward, before the activation"},
    {"ff2.hook_post", "audio frame d_mlp", kConformer, kEdit, kModelType, "second feed-forward, after the activation"},
    {"ff2.hook_out", "audio frame d_audio", kConformer, kEdit, kModelType, "last tensor added to the stream: after its norm and the factor 1/2"},
    {"hook_resid_post", "batch pos d_model", kBlock, kEdit, kModelType, "end of block: layer_scalar * (resid_mid + mlp_out + ple_out); in vision blocks resid_mid + mlp_out, in audio blocks after the last norm"},

    {"ln_final.hook_scale", "batch pos 1", kModel, kEdit, kWide, "root-mean-square of the final stream"},
    {"ln_final.hook_normalized", "batch pos d_model", kModel, kEdit, kWide, "final stream / scale, before the gain"},
    {"hook_unembed", "batch pos d_vocab", kModel, kEdit, kModelType, "logits before the final softcap"},
    {"hook_logits", "batch pos d_vocab", kModel, kEdit, kModelType, "logits after it"},
});
// clang-format on
}  // namespace table

inline constexpr auto& kHookPoints = table::kRows;
inline constexpr std::size_t kNHookPoints = kHookPoints.size();

/// Never defined: the compiler names it when a literal is not in the table.
void no_such_hook_point(const char* name);

/// Index of a row, looked up while compiling: a misspelt name does not compile.
class HookId {
 public:
  consteval HookId(const char* name) : row_(find(name)) {}  // NOLINT(google-explicit-constructor)
  static constexpr HookId from_row(std::size_t row) { return HookId(row, 0); }
  constexpr std::size_t row() const { return row_; }
  constexpr const HookPoint& point() const { return kHookPoints[row_]; }
  constexpr bool operator==(const HookId&) const = default;

 private:
  constexpr HookId(std::size_t row, int) : row_(static_cast<std::uint8_t>(row)) {}
  static consteval std::uint8_t find(const char* name) {
    for (std::size_t i = 0; i < kNHookPoints; ++i) {
      if (kHookPoints[i].name == name) return static_cast<std::uint8_t>(i);
    }
    no_such_hook_point(name);
    return 0;
  }
  std::uint8_t row_;
};

static_assert(kNHookPoints <= 256, "HookId holds a row in one byte");
static_assert(
    [] {
      for (std::size_t i = 0; i < kNHookPoints; ++i) {
        for (std::size_t j = 0; j < i; ++j) {
          if (kHookPoints[i].name == kHookPoints[j].name) return false;
        }
      }
      return true;
    }(),
    "a name stands once in the table");

}  // namespace bezel::hooks
