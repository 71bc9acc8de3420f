#include <ATen/ATen.h>

#include <cmath>

#include "bezel/bridge/layers.h"
#include "bezel/bridge/ops/dtype.h"
#include "bezel/bridge/ops/linear.h"
#include "bezel/bridge/ops/rms_norm.h"

namespace bezel::bridge {
namespace {

// The reference keeps such factors in the weights' dtype: in bfloat16 sqrt(1536) is 39.25.
double rounded_to(double factor, at::ScalarType type) {
  if (type == at::kDouble) return factor;
  const auto single = static_cast<float>(factor);
  return type == at::kBFloat16 ? static_cast<float>(at::BFloat16(single)) : single;
}

at::Tensor scaled_rows(const at::Tensor& table, const at::Tensor& tokens, std::int64_t width) {
  const double scale = rounded_to(std::sqrt(static_cast<double>(width)), table.scalar_type());
  return at::embedding(table, tokens) * scale;
}

}  // namespace

at::Tensor embed_tokens(const at::Tensor& tokens, const Weights& weights) {
  return scaled_rows(weights.embed, tokens, weights.embed.size(1));
}

at::Tensor per_layer_inputs(const at::Tensor& tokens, const at::Tensor& embeddings,
                            const ModelSpec& spec, const PleTableWeights& weights,
                            const Context& context, hooks::Tap tap) {
  const auto per_layer = [&](const at::Tensor& packed) {
    return packed.unflatten(-1, {spec.n_layers, spec.d_ple});
  };
  const auto identity =
      tap("ple.hook_token", per_layer(scaled_rows(weights.table, tokens, spec.d_ple)));
  const double inverse_root = 1.0 / std::sqrt(static_cast<double>(spec.d_model));
  const auto projected =
      per_layer(ops::linear(embeddings, weights.projection, context.path) * inverse_root);
  const auto in_context = tap("ple.hook_context", ops::rms_norm(projected, weights.norm, context));
  const auto sum = ops::widened(identity) + in_context;
  return tap("ple.hook_inputs", (sum * M_SQRT1_2).to(embeddings.scalar_type()));
}

}  // namespace bezel::bridge
