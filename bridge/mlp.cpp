#include <ATen/ATen.h>

#include <vector>

#include "bezel/bridge/layers.h"
#include "bezel/bridge/ops/gated_gelu.h"
#include "bezel/bridge/ops/linear.h"
#include "bezel/bridge/ops/rms_norm.h"

namespace bezel::bridge {

using hooks::Tap;

namespace {

// Gate and up. Matrices that clamp take bounds of their own and cannot be one.
std::vector<at::Tensor> gate_and_up(const at::Tensor& x, const MlpWeights& w, Path path) {
  if (!w.clips.defined()) return ops::linear(x, w.gate_up, path).chunk(2, -1);
  const auto matrices = w.gate_up.chunk(2);
  return {ops::linear(x, matrices[0], ops::clip_of(w.clips, 0), path),
          ops::linear(x, matrices[1], ops::clip_of(w.clips, 1), path)};
}

}  // namespace

at::Tensor mlp(const at::Tensor& x, const MlpWeights& weights, const Context& context, Tap tap) {
  const auto gate_up = gate_and_up(x, weights, context.path);
  const auto gate = tap("mlp.hook_pre", gate_up[0]);
  const auto up = tap("mlp.hook_pre_linear", gate_up[1]);
  const auto post = tap("mlp.hook_post", ops::gated_gelu(gate, up, context.path));
  return tap("mlp.hook_out",
             ops::linear(post, weights.down, ops::clip_of(weights.clips, 2), context.path));
}

at::Tensor feed_forward(const at::Tensor& stream, const LayerWeights& weights,
                        const LayerSpec& spec, const Context& context, Tap tap) {
  const auto branch_input = tap("hook_mlp_in", stream);
  auto sum = mlp(ops::rms_norm(branch_input, weights.ln2, context,
                               {"ln2.hook_scale", "ln2.hook_normalized"}, tap),
                 weights.mlp, context, tap);
  if (weights.moe) {
    // Two statements: C++ leaves open which operand of a + is computed, and tapped, first.
    sum = ops::rms_norm(sum, weights.moe->ln2_dense_post, context,
                        {"ln2_dense_post.hook_scale", "ln2_dense_post.hook_normalized"}, tap);
    sum = sum + experts(branch_input, *weights.moe, *spec.moe, context, tap);
  }
  return sum;
}

}  // namespace bezel::bridge
