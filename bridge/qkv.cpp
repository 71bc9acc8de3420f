// Queries, keys and values from the stream, with or without per-head copies of it.
#include <ATen/ATen.h>

#include "bezel/bridge/layers.h"
#include "bezel/bridge/ops/rms_norm.h"
#include "bezel/hooks/error.h"

namespace bezel::bridge {
namespace {

using hooks::HookId;
using hooks::Tap;

constexpr ops::NormHooks kLn1 = {"ln1.hook_scale", "ln1.hook_normalized"};

// One of q, k, v from a copy of the stream per head; each copy gets its own norm.
at::Tensor project_copies(HookId name, const at::Tensor& branch_input, std::int64_t n_heads,
                          const at::Tensor& gain, const at::Tensor& rows, const Context& context,
                          Tap tap) {
  const auto copies = tap(name, branch_input.unsqueeze(2).expand({-1, -1, n_heads, -1}));
  const auto per_head = rows.unflatten(0, {n_heads, -1});  // [head d_head d_model]
  return at::einsum("bshm,hdm->bshd", {ops::rms_norm(copies, gain, context), per_head});
}

void refuse_two_owners_of_ln1(Tap tap) {
  if (!tap.any_edits({"ln1.hook_scale", "ln1.hook_normalized"})) return;
  if (!tap.any_edits({"hook_q_input", "hook_k_input", "hook_v_input"})) return;
  throw ArgumentError(
      "ln1.* and hook_q_input, hook_k_input or hook_v_input are edited in one layer: an edited "
      "copy "
      "of the stream gets a norm of its own, so the edit of ln1 would not reach it. Edit one of "
      "them");
}

}  // namespace

Projections project_qkv(const at::Tensor& branch_input, const LayerWeights& weights,
                        const AttentionSpec& spec, const Context& context, Tap tap) {
  refuse_two_owners_of_ln1(tap);
  const auto& w = weights.attention;
  const bool owns_kv = !spec.donor.has_value();
  const std::int64_t n_q = spec.n_heads * spec.d_head;
  const std::int64_t n_k = spec.n_kv_heads * spec.d_head;
  const auto packed =
      at::linear(ops::rms_norm(branch_input, weights.ln1, context, kLn1, tap), w.qkv);
  const auto heads = [&](std::int64_t begin, std::int64_t length) {
    return packed.narrow(-1, begin, length).unflatten(-1, {-1, spec.d_head});
  };
  const auto copies = [&](HookId name, std::int64_t n_heads, std::int64_t row) {
    const auto rows = w.qkv.narrow(0, row, n_heads * spec.d_head);
    return project_copies(name, branch_input, n_heads, weights.ln1, rows, context, tap);
  };
  Projections own;
  own.q = tap("attn.hook_q",
              tap.live("hook_q_input") ? copies("hook_q_input", spec.n_heads, 0) : heads(0, n_q));
  if (!owns_kv) return own;
  own.k = tap("attn.hook_k", tap.live("hook_k_input") ? copies("hook_k_input", spec.n_kv_heads, n_q)
                                                      : heads(n_q, n_k));
  const std::int64_t v_row = spec.k_is_v ? n_q : n_q + n_k;
  const bool from_k = spec.k_is_v && !tap.live("hook_v_input");
  own.v =
      tap("attn.hook_v", from_k                     ? own.k
                         : tap.live("hook_v_input") ? copies("hook_v_input", spec.n_kv_heads, v_row)
                                                    : heads(v_row, n_k));
  return own;
}

}  // namespace bezel::bridge
