#include "bezel/bridge/weights.h"

#include <ATen/ATen.h>

namespace bezel::bridge {

std::vector<at::Tensor> all_tensors(const Weights& weights) {
  std::vector<at::Tensor> all = {weights.embed, weights.ln_final};
  if (!weights.unembed.is_same(weights.embed)) all.push_back(weights.unembed);
  if (const auto& ple = weights.ple) all.insert(all.end(), {ple->table, ple->projection, ple->norm});
  for (const LayerWeights& layer : weights.layers) {
    const auto& [qkv, out, q_norm, k_norm] = layer.attention;
    all.insert(all.end(), {layer.ln1, layer.ln1_post, layer.ln2, layer.ln2_post, qkv, out, q_norm,
                           layer.mlp.gate_up, layer.mlp.down, layer.layer_scalar});
    if (k_norm.defined()) all.push_back(k_norm);
    if (const auto& moe = layer.moe) {
      all.insert(all.end(), {moe->router_scale, moe->router, moe->per_expert_scale, moe->gate_up,
                             moe->down, moe->ln2_dense_post, moe->ln2_moe, moe->ln2_moe_post});
    }
    if (const auto& ple = layer.ple) {
      all.insert(all.end(), {ple->gate, ple->projection, ple->post_norm});
    }
  }
  return all;
}

}  // namespace bezel::bridge
