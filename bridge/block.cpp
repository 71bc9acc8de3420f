#include <ATen/ATen.h>

#include "bezel/bridge/layers.h"

namespace bezel::bridge {

at::Tensor block(at::Tensor stream, int layer, const LayerWeights& weights, const LayerSpec& spec,
                 const at::Tensor& ple_input, const Context& context, DonatedKeys& donated,
                 hooks::Tap tap) {
  stream = tap("hook_resid_pre", stream);
  stream = tap("hook_resid_mid",
               stream + attention(stream, layer, weights, spec.attention, context, donated, tap));
  stream = stream + feed_forward(stream, weights, spec, context, tap);
  if (weights.ple) {
    stream = stream + per_layer_branch(stream, ple_input, *weights.ple, context, tap);
  }
  return tap("hook_resid_post", stream * weights.layer_scalar);
}

}  // namespace bezel::bridge
