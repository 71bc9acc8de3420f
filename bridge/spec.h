// What a model is, as plain data: one LayerSpec per block, because Gemma 4's blocks differ.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bezel/bridge/ops/context.h"

namespace bezel::bridge {

using ops::RopeSpec;

struct AttentionSpec {
  std::int64_t n_heads = 0, n_kv_heads = 0, d_head = 0;
  /// Tokens a query sees, itself included; nullopt: all before it.
  std::optional<std::int64_t> window_tokens;
  RopeSpec rope;
  bool k_is_v = false;       // values are taken from the key projection
  std::optional<int> donor;  // the block whose keys and values this one reads
  bool donates = false;      // later blocks read this one's keys and values
};

struct MlpSpec {
  std::int64_t d_mlp = 0;
};

struct MoeSpec {
  std::int64_t n_experts = 0, n_chosen = 0, d_expert = 0;
};

struct LayerSpec {
  AttentionSpec attention;
  MlpSpec mlp;
  std::optional<MoeSpec> moe;
};

/// Which tokens of the input attend both ways in sliding layers.
enum class Bidirectional : std::uint8_t { kNone, kVision };

struct ModelSpec {
  std::string family;  // "gemma4"
  std::int64_t n_layers = 0, n_heads = 0, d_model = 0, d_vocab = 0;
  std::int64_t d_ple = 0;        // width of the per-layer embeddings; 0: none
  std::int64_t d_vocab_ple = 0;  // rows of their table
  std::int64_t max_positions = 0;
  double norm_eps = 1e-6;
  bool tied_head = true;          // the unembedding is the embedding table
  std::optional<double> softcap;  // of the logits
  Bidirectional bidirectional = Bidirectional::kNone;
  std::vector<std::int64_t> eos_token_ids;
  std::optional<std::int64_t> pad_token_id, bos_token_id;
  std::vector<LayerSpec> layers;
};

}  // namespace bezel::bridge
