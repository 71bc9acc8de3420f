#include <ATen/ATen.h>

#include <cmath>

#include "bezel/bridge/layers.h"
#include "bezel/bridge/ops/dtype.h"
#include "bezel/bridge/ops/gated_gelu.h"
#include "bezel/bridge/ops/linear.h"
#include "bezel/bridge/ops/moe_dispatch.h"
#include "bezel/bridge/ops/rms_norm.h"
#include "bezel/hooks/error.h"

namespace bezel::bridge {
namespace {

using hooks::Tap;

struct Routes {
  at::Tensor indices;  // [batch pos k] int64
  at::Tensor weights;  // [batch pos k], wide
};

void refuse_unknown_experts(const at::Tensor& indices, std::int64_t n_experts) {
  const auto lowest = indices.min().item<std::int64_t>();
  const auto highest = indices.max().item<std::int64_t>();
  if (lowest >= 0 && highest < n_experts) return;
  throw HookResultError("moe.hook_expert_indices was edited to values from " +
                        std::to_string(lowest) + " to " + std::to_string(highest) +
                        "; the layer has experts 0 to " + std::to_string(n_experts - 1));
}

// The router reads the un-normed stream through a weightless norm and a gain of its own.
Routes route(const at::Tensor& stream, const MoeWeights& w, const MoeSpec& spec,
             const Context& context, Tap tap) {
  const double inverse_root = 1.0 / std::sqrt(static_cast<double>(stream.size(-1)));
  const auto gained = ops::widened(ops::rms_norm(stream, {}, context)) * w.router_scale;
  const auto x = (gained * inverse_root).to(stream.scalar_type());
  const auto logits = tap("moe.hook_router_logits", ops::linear(x, w.router, context.path));
  const auto probs = tap("moe.hook_router_probs", at::softmax(ops::widened(logits), -1));
  const auto chosen = std::get<1>(at::topk(probs, spec.n_chosen, -1));
  const auto indices = tap("moe.hook_expert_indices", chosen);
  if (tap.any_edits({"moe.hook_expert_indices"})) refuse_unknown_experts(indices, spec.n_experts);
  const auto raw = probs.gather(-1, indices);
  const auto scale = at::embedding(w.per_expert_scale.unsqueeze(-1), indices).squeeze(-1);
  return {indices, tap("moe.hook_expert_weights", raw / raw.sum(-1, /*keepdim=*/true) * scale)};
}

}  // namespace

at::Tensor experts(const at::Tensor& stream, const MoeWeights& w, const MoeSpec& spec,
                   const Context& context, Tap tap) {
  const Routes routes = route(stream, w, spec, context, tap);
  const auto x = ops::rms_norm(stream, w.ln2_moe, context,
                               {"ln2_moe.hook_scale", "ln2_moe.hook_normalized"}, tap);
  const auto copies = x.unsqueeze(2).expand({-1, -1, routes.indices.size(-1), -1});
  const auto gate_up =
      ops::expert_linear(copies, routes.indices, w.gate_up, context.path).chunk(2, -1);
  const auto gate = tap("moe.hook_expert_pre", gate_up[0]);
  const auto up = tap("moe.hook_expert_pre_linear", gate_up[1]);
  const auto post = tap("moe.hook_expert_post", ops::gated_gelu(gate, up, context.path));
  const auto down = ops::expert_linear(post, routes.indices, w.down, context.path);
  const auto weighted = (down * routes.weights.unsqueeze(-1)).to(x.scalar_type());
  const auto sum = tap("moe.hook_out", tap("moe.hook_expert_out", weighted).sum(2));
  return ops::rms_norm(sum, w.ln2_moe_post, context,
                       {"ln2_moe_post.hook_scale", "ln2_moe_post.hook_normalized"}, tap);
}

}  // namespace bezel::bridge
