// The weights of a model. Joint projections are one matrix where the rows simply follow each
// other; the values they produce keep separate names.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bezel/bridge/spec.h"

namespace bezel::bridge {

struct AttentionWeights {
  /// [(n_heads + own kv heads) * d_head, d_model]: rows of q, then k, then v. Only q in layers that
  /// share keys and values; q and k where K == V.
  at::Tensor qkv;
  at::Tensor out;     // [d_model, n_heads * d_head]
  at::Tensor q_norm;  // [d_head]
  at::Tensor k_norm;  // [d_head]; undefined in layers that share keys and values
  at::Tensor clips;   // [16]: ops::Clip of q, k, v and out; undefined where nothing is clamped
};

struct MlpWeights {
  at::Tensor gate_up;  // [2 * d_mlp, d_model]: gate rows, then up rows
  at::Tensor down;     // [d_model, d_mlp]
  at::Tensor clips;    // [12]: ops::Clip of gate, up and down; undefined where nothing is clamped
};

struct MoeWeights {
  at::Tensor router_scale;                           // [d_model]
  at::Tensor router;                                 // [n_experts, d_model]
  at::Tensor per_expert_scale;                       // [n_experts]
  at::Tensor gate_up;                                // [n_experts, 2 * d_expert, d_model]
  at::Tensor down;                                   // [n_experts, d_model, d_expert]
  at::Tensor ln2_dense_post, ln2_moe, ln2_moe_post;  // [d_model]
};

/// The gate and projection of a block's per-layer embedding.
struct PleWeights {
  at::Tensor gate;        // [d_ple, d_model]
  at::Tensor projection;  // [d_model, d_ple]
  at::Tensor post_norm;   // [d_model]
};

struct LayerWeights {
  at::Tensor ln1, ln1_post, ln2, ln2_post;  // [d_model]
  AttentionWeights attention;
  MlpWeights mlp;
  std::optional<MoeWeights> moe;
  std::optional<PleWeights> ple;
  at::Tensor layer_scalar;  // [1]; undefined in blocks without one
};

/// The model-wide half of the per-layer embeddings.
struct PleTableWeights {
  at::Tensor table;       // [d_vocab_ple, n_layers * d_ple]
  at::Tensor projection;  // [n_layers * d_ple, d_model]
  at::Tensor norm;        // [d_ple]
};

struct VisionEncoderWeights {
  at::Tensor patches;              // [d_vision, d_patch]
  at::Tensor positions;            // [2, n_positions, d_vision]: of columns, then of rows
  at::Tensor std_bias, std_scale;  // [d_vision]; undefined where the encoder does not standardise
  std::vector<LayerWeights> layers;
};

/// Layer norms have a gain and a bias, [2, d] together.
struct VisionEmbedderWeights {
  at::Tensor ln1;         // [2, d_patch]
  at::Tensor dense;       // [d_vision, d_patch]
  at::Tensor dense_bias;  // [d_vision]
  at::Tensor ln2;         // [2, d_vision]
  at::Tensor positions;   // [n_positions, 2, d_vision]: of columns and rows
  at::Tensor ln_out;      // [2, d_vision]
};

struct VisionWeights {
  std::optional<VisionEncoderWeights> encoder;
  std::optional<VisionEmbedderWeights> embedder;
  at::Tensor projection;  // [d_model, d_vision]
};

/// A half-step feed-forward of a conformer block. Matrices clamp where clips [4] is defined.
struct ConformerMlpWeights {
  at::Tensor norm, post_norm;  // [d_audio]
  at::Tensor up, up_clips;     // [4 * d_audio, d_audio]
  at::Tensor down, down_clips;
};

struct ConformerAttentionWeights {
  at::Tensor norm, post_norm;                       // [d_audio]
  at::Tensor q, k, v, out;                          // [d_audio, d_audio]
  at::Tensor q_clips, k_clips, v_clips, out_clips;  // [4]
  at::Tensor relative;                              // [d_audio, d_audio]: of the sines of distances
  at::Tensor per_dim_scale;                         // [d_head]
};

struct ConformerConvWeights {
  at::Tensor norm, conv_norm;     // [d_audio]
  at::Tensor start, start_clips;  // [2 * d_audio, d_audio]
  at::Tensor depthwise;           // [d_audio, 1, conv_width]
  at::Tensor end, end_clips;      // [d_audio, d_audio]
};

struct ConformerWeights {
  ConformerMlpWeights ff1, ff2;
  ConformerAttentionWeights attention;
  ConformerConvWeights conv;
  at::Tensor norm_out;  // [d_audio]
};

struct SubsampleWeights {
  at::Tensor conv;  // [channels, channels before, 3, 3]
  at::Tensor norm;  // [channels]
};

struct AudioEncoderWeights {
  std::array<SubsampleWeights, 2> subsample;
  at::Tensor embed;          // [d_audio, n_quarter_mel * channels[1]]
  at::Tensor out, out_bias;  // [d_out, d_audio], [d_out]
  std::vector<ConformerWeights> layers;
};

struct AudioWeights {
  std::optional<AudioEncoderWeights> encoder;
  at::Tensor projection;  // [d_model, d_in]
};

struct Weights {
  at::Tensor embed;     // [d_vocab, d_model]
  at::Tensor unembed;   // [d_vocab, d_model]; the same tensor as embed when the head is tied
  at::Tensor ln_final;  // [d_model]
  std::optional<PleTableWeights> ple;
  std::vector<LayerWeights> layers;
  std::optional<VisionWeights> vision;
  std::optional<AudioWeights> audio;
};

/// One tensor of a model: what it is called, where it goes and what the spec says of it.
struct WeightSlot {
  std::string name;  // "layers.3.attention.qkv"
  at::Tensor* tensor;
  std::vector<std::int64_t> shape;
  /// Rows of the matrices that stand below each other in it; their sum is shape[0].
  std::vector<std::int64_t> rows;
  /// The parts are single numbers or vectors that fill one row each.
  bool one_row_each = false;
};

/// Every tensor that a model of this spec has, each once (a tied head counts once). Makes room in
/// `weights` for what they lack; pointers stay good as long as `weights` stays where it is.
std::vector<WeightSlot> weight_slots(const ModelSpec& spec, Weights& weights);

/// Throws ModelMismatchError where a weight is missing, left over, or not of the spec's shape, and
/// UnsupportedError where dtypes or devices differ or the dtype is not float32, bfloat16 or
/// float64.
void check_weights(const ModelSpec& spec, Weights weights);

}  // namespace bezel::bridge
