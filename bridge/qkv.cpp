// Queries, keys and values from the stream, with or without per-head copies of it.
#include <ATen/ATen.h>

#include "bezel/bridge/layers.h"
#include "bezel/bridge/ops/rms_norm.h"

namespace bezel::bridge {
namespace {

using hooks::HookId;
using hooks::Tap;

constexpr ops::NormHooks kLn1 = {"ln1.hook_scale", "ln1.hook_normalized"};

// One of q, k, v from a copy of the stream per head; each copy gets its own norm.
at::Tensor project_copies(const at::Tensor& copies, const at::Tensor& gain, const at::Tensor& rows,
                          const Context& context) {
  const auto per_head = rows.unflatten(0, {copies.size(2), -1});  // [head d_head d_model]
  return at::einsum("bshm,hdm->bshd", {ops::rms_norm(copies, gain, context), per_head});
}

}  // namespace

Projections project_qkv(const at::Tensor& branch_input, const LayerWeights& weights,
                        const AttentionSpec& spec, const Context& context, Tap tap) {
  const auto& w = weights.attention;
  const std::int64_t n_q = spec.n_heads * spec.d_head;
  const std::int64_t n_k = spec.n_kv_heads * spec.d_head;
  const auto packed =
      at::linear(ops::rms_norm(branch_input, weights.ln1, context, kLn1, tap), w.qkv);
  const auto heads = [&](std::int64_t begin, std::int64_t length) {
    return packed.narrow(-1, begin, length).unflatten(-1, {-1, spec.d_head});
  };
  // Mere looks at the copies leave the run as it is: ln1 and hook_k would not reach what they feed.
  const auto projected = [&](HookId name, std::int64_t n_heads, std::int64_t row,
                             const at::Tensor& unsplit) {
    if (!tap.live(name)) return unsplit;
    const auto copies = tap(name, branch_input.unsqueeze(2).expand({-1, -1, n_heads, -1}));
    if (!tap.any_changes({name})) return unsplit;
    const auto rows = w.qkv.narrow(0, row, n_heads * spec.d_head);
    return project_copies(copies, weights.ln1, rows, context);
  };
  Projections own;
  own.q = tap("attn.hook_q", projected("hook_q_input", spec.n_heads, 0, heads(0, n_q)));
  if (spec.donor) return own;
  own.k = tap("attn.hook_k", projected("hook_k_input", spec.n_kv_heads, n_q, heads(n_q, n_k)));
  const std::int64_t v_row = spec.k_is_v ? n_q : n_q + n_k;
  own.v = tap("attn.hook_v", projected("hook_v_input", spec.n_kv_heads, v_row,
                                       spec.k_is_v ? own.k : heads(v_row, n_k)));
  return own;
}

}  // namespace bezel::bridge
