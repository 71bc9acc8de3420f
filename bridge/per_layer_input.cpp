#include <ATen/ATen.h>

#include "bezel/bridge/layers.h"
#include "bezel/bridge/ops/gated_gelu.h"
#include "bezel/bridge/ops/linear.h"
#include "bezel/bridge/ops/rms_norm.h"

namespace bezel::bridge {

at::Tensor per_layer_branch(const at::Tensor& stream, const at::Tensor& input,
                            const PleWeights& weights, const Context& context, hooks::Tap tap) {
  const auto gate = tap("ple.hook_gate", ops::linear(stream, weights.gate, context.path));
  const auto post =
      tap("ple.hook_post", ops::gated_gelu(gate, tap("ple.hook_input", input), context.path));
  return ops::linear(post, weights.projection, context.path);
}

}  // namespace bezel::bridge
