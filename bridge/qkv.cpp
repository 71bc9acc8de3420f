// Queries, keys and values from the stream, with or without per-head copies of it.
#include <ATen/ATen.h>

#include <vector>

#include "bezel/bridge/layers.h"
#include "bezel/bridge/ops/dtype.h"
#include "bezel/bridge/ops/linear.h"
#include "bezel/bridge/ops/rms_norm.h"

namespace bezel::bridge {
namespace {

using hooks::HookId;
using hooks::Tap;

constexpr ops::NormHooks kLn1 = {"ln1.hook_scale", "ln1.hook_normalized"};

/// One of q, k, v.
struct Matrix {
  at::Tensor rows;  // [head*d_head d_model]
  ops::Clip clip;
};

// From a copy of the stream per head; each copy gets its own norm.
at::Tensor project_copies(const at::Tensor& copies, const at::Tensor& gain, const Matrix& matrix,
                          const Context& context) {
  const auto per_head = matrix.rows.unflatten(0, {copies.size(2), -1});  // [head d_head d_model]
  const auto normed = matrix.clip.entering(ops::rms_norm(copies, gain, context));
  return matrix.clip.leaving(at::einsum("bshm,hdm->bshd", {normed, per_head}));
}

// q, and k and v where there are some [batch pos head*d_head]. Matrices that clamp take bounds of
// their own and cannot be one.
std::vector<at::Tensor> project(const at::Tensor& x, const AttentionWeights& w,
                                const std::vector<std::int64_t>& lengths, Path path) {
  if (!w.clips.defined()) return ops::linear(x, w.qkv, path).split_with_sizes(lengths, -1);
  std::vector<at::Tensor> parts;
  for (const at::Tensor& rows : w.qkv.split_with_sizes(lengths)) {
    const auto clip = ops::clip_of(w.clips, static_cast<std::int64_t>(parts.size()));
    parts.push_back(ops::linear(x, rows, clip, path));
  }
  return parts;
}

at::Tensor plus(const at::Tensor& value, const at::Tensor& change) {
  if (!change.defined()) return value;
  return (ops::widened(value) + change).to(value.scalar_type());
}

}  // namespace

Projections project_qkv(const at::Tensor& branch_input, const LayerWeights& weights,
                        const AttentionSpec& spec, const Context& context, Tap tap) {
  const auto& w = weights.attention;
  const std::int64_t n_q = spec.n_heads * spec.d_head;
  const std::int64_t n_k = spec.n_kv_heads * spec.d_head;
  std::vector<std::int64_t> lengths = {n_q};
  if (!spec.donor) lengths.resize(spec.k_is_v ? 2 : 3, n_k);
  const auto parts = project(ops::rms_norm(branch_input, weights.ln1, context, kLn1, tap), w,
                             lengths, context.path);
  const auto heads = [&](std::size_t i) { return parts[i].unflatten(-1, {-1, spec.d_head}); };
  // What a hook on the copies changes; undefined where none can. An edit that changes nothing gives
  // zeros, so that the run stays as it is, bit for bit.
  const auto change = [&](HookId name, std::int64_t n_heads, std::int64_t row, int matrix) {
    if (!tap.live(name)) return at::Tensor();
    const auto copies = branch_input.unsqueeze(2).expand({-1, -1, n_heads, -1});
    const auto seen = tap(name, copies);
    if (!tap.any_changes({name})) return at::Tensor();
    const Matrix of = {w.qkv.narrow(0, row, n_heads * spec.d_head), ops::clip_of(w.clips, matrix)};
    return ops::widened(project_copies(seen, weights.ln1, of, context)) -
           ops::widened(project_copies(copies, weights.ln1, of, context));
  };
  Projections own;
  own.q = tap("attn.hook_q", plus(heads(0), change("hook_q_input", spec.n_heads, 0, 0)));
  if (spec.donor) return own;
  const auto k_change = change("hook_k_input", spec.n_kv_heads, n_q, 1);
  own.k = tap("attn.hook_k", plus(heads(1), k_change));
  // Where K == V the values come from the keys' projection, less what its own input's hook changed.
  const std::int64_t v_row = spec.k_is_v ? n_q : n_q + n_k;
  const auto v = spec.k_is_v ? plus(own.k, k_change.defined() ? -k_change : k_change) : heads(2);
  own.v = tap("attn.hook_v", plus(v, change("hook_v_input", spec.n_kv_heads, v_row, 2)));
  return own;
}

}  // namespace bezel::bridge
