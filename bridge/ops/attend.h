// Attention between given queries, keys and values.
#pragma once

#include <ATen/core/Tensor.h>

#include "bezel/bridge/ops/context.h"
#include "bezel/hooks/tap.h"

namespace bezel::ops {

/// q [batch q_pos head d_head], k and v [batch k_pos kv_head d_head] → z [batch q_pos head d_head].
/// Scores are unscaled (Gemma 4's query norm carries the scale); query head h reads kv head
/// h / (n_heads / n_kv_heads). Names: attn.hook_attn_scores, attn.hook_pattern.
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Mask& mask,
                  Path path, hooks::Tap tap);

/// Which places a mask speaks of: the keys are the last n_keys tokens, the queries the last
/// n_queries of these.
struct MaskShape {
  std::int64_t n_queries = 0, n_keys = 0;
  std::optional<std::int64_t> window_tokens;  // nullopt: a query sees all tokens before it
};

/// The additive mask of a layer. keys_valid [batch k_pos] bool, undefined: all valid.
/// blocks [batch q_pos] int64: the image a token belongs to, -1: none; undefined: attend causally.
Mask make_mask(const MaskShape& shape, const at::Tensor& keys_valid, const at::Tensor& blocks,
               const at::TensorOptions& model_options);

}  // namespace bezel::ops
