#include <ATen/ATen.h>

#include "bezel/bridge/kv_cache.h"
#include "bezel/bridge/layers.h"
#include "bezel/bridge/ops/attend.h"
#include "bezel/bridge/ops/dtype.h"
#include "bezel/bridge/ops/linear.h"
#include "bezel/bridge/ops/rms_norm.h"
#include "bezel/bridge/ops/rope.h"

namespace bezel::bridge {
namespace {

using hooks::Tap;

KeysValues own_keys_values(const Projections& own, const AttentionWeights& w,
                           const Rotation& rotation, const Context& context, Tap tap) {
  const auto k = tap("attn.hook_k_normed", ops::rms_norm(own.k, w.k_norm, context));
  const auto v = tap("attn.hook_v_normed", ops::rms_norm(own.v, {}, context));
  return {tap("attn.hook_rot_k", ops::rotate(k, rotation, context.path)), v};
}

KeysValues shared_keys_values(const KeysValues& donor, Tap tap) {
  return {tap("attn.hook_shared_k", donor.keys), tap("attn.hook_shared_v", donor.values)};
}

// z [batch pos head d_head] → attn.hook_out; head by head only where somebody looks at the heads.
at::Tensor project_out(const at::Tensor& z, const AttentionWeights& w, Path path, Tap tap) {
  const auto clip = ops::clip_of(w.clips, 3);
  const auto heads = clip.entering(z);
  const auto out = ops::linear(heads.flatten(2), w.out, path);
  if (!tap.live("attn.hook_result")) return clip.leaving(out);
  const auto per_head = w.out.unflatten(-1, {z.size(2), z.size(3)});  // [d_model head d_head]
  const auto result = at::einsum("bshd,mhd->bshm", {heads, per_head});
  // Only what a hook changed: an edit that changes nothing leaves `out` as it is, bit for bit.
  const auto change = ops::widened(tap("attn.hook_result", result)) - ops::widened(result);
  return clip.leaving((ops::widened(out) + change.sum(2)).to(out.scalar_type()));
}

}  // namespace

at::Tensor attention(const at::Tensor& stream, int layer, const LayerWeights& weights,
                     const AttentionSpec& spec, const Context& context, RunState& state, Tap tap) {
  const auto& w = weights.attention;
  const Rotation& rotation = context.rotations[layer];
  const auto own = project_qkv(tap("hook_attn_in", stream), weights, spec, context, tap);
  const auto q_normed = tap("attn.hook_q_normed", ops::rms_norm(own.q, w.q_norm, context));
  const auto q = tap("attn.hook_rot_q", ops::rotate(q_normed, rotation, context.path));
  KeysValues kv = spec.donor ? shared_keys_values(state.donated[*spec.donor].value(), tap)
                             : own_keys_values(own, w, rotation, context, tap);
  if (state.kv_cache && !spec.donor) kv = state.kv_cache->with(layer, kv);
  if (spec.donates) state.donated[layer] = kv;
  const auto z = tap("attn.hook_z",
                     ops::attend(q, kv.keys, kv.values, context.masks[layer], context.path, tap));
  return tap("attn.hook_out", project_out(z, w, context.path, tap));
}

}  // namespace bezel::bridge
