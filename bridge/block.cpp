#include <ATen/ATen.h>

#include "bezel/bridge/layers.h"
#include "bezel/bridge/ops/rms_norm.h"

namespace bezel::bridge {
namespace {

// Each branch ends in a norm of its own before it joins the stream.
constexpr ops::JoinHooks kAttention = {{"ln1_post.hook_scale", "ln1_post.hook_normalized"},
                                       "hook_attn_out"};
constexpr ops::JoinHooks kFeedForward = {{"ln2_post.hook_scale", "ln2_post.hook_normalized"},
                                         "hook_mlp_out"};
constexpr ops::JoinHooks kPerLayer = {{"ple_post.hook_scale", "ple_post.hook_normalized"},
                                      "hook_ple_out"};

}  // namespace

at::Tensor block(at::Tensor stream, int layer, const LayerWeights& weights, const LayerSpec& spec,
                 const at::Tensor& ple_input, const Context& context, RunState& state,
                 hooks::Tap tap) {
  stream = tap("hook_resid_pre", stream);
  const auto attended = attention(stream, layer, weights, spec.attention, context, state, tap);
  stream = ops::join(stream, attended, weights.ln1_post, context, kAttention, tap);
  stream = tap("hook_resid_mid", stream);
  const auto fed = feed_forward(stream, weights, spec, context, tap);
  stream = ops::join(stream, fed, weights.ln2_post, context, kFeedForward, tap);
  if (weights.ple) {
    const auto added = per_layer_branch(stream, ple_input, *weights.ple, context, tap);
    stream = ops::join(stream, added, weights.ple->post_norm, context, kPerLayer, tap);
  }
  if (weights.layer_scalar.defined()) stream = stream * weights.layer_scalar;
  return tap("hook_resid_post", stream);
}

}  // namespace bezel::bridge
