// The weights of a text model. Joint projections are one matrix where the rows simply follow each
// other; the values they produce keep separate names.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace bezel::bridge {

struct AttentionWeights {
  /// [(n_heads + own kv heads) * d_head, d_model]: rows of q, then k, then v. Only q in layers that
  /// share keys and values; q and k where K == V.
  at::Tensor qkv;
  at::Tensor out;     // [d_model, n_heads * d_head]
  at::Tensor q_norm;  // [d_head]
  at::Tensor k_norm;  // [d_head]; undefined in layers that share keys and values
};

struct MlpWeights {
  at::Tensor gate_up;  // [2 * d_mlp, d_model]: gate rows, then up rows
  at::Tensor down;     // [d_model, d_mlp]
};

struct MoeWeights {
  at::Tensor router_scale;      // [d_model]
  at::Tensor router;            // [n_experts, d_model]
  at::Tensor per_expert_scale;  // [n_experts]
  at::Tensor gate_up;           // [n_experts, 2 * d_expert, d_model]
  at::Tensor down;              // [n_experts, d_model, d_expert]
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
  at::Tensor layer_scalar;  // [1]
};

/// The model-wide half of the per-layer embeddings.
struct PleTableWeights {
  at::Tensor table;       // [d_vocab_ple, n_layers * d_ple]
  at::Tensor projection;  // [n_layers * d_ple, d_model]
  at::Tensor norm;        // [d_ple]
};

struct Weights {
  at::Tensor embed;    // [d_vocab, d_model]
  at::Tensor unembed;  // [d_vocab, d_model]; the same tensor as embed when the head is tied
  at::Tensor ln_final;  // [d_model]
  std::optional<PleTableWeights> ple;
  std::vector<LayerWeights> layers;
};

/// Every tensor, each once (a tied head counts once).
std::vector<at::Tensor> all_tensors(const Weights& weights);

}  // namespace bezel::bridge
