#include <ATen/ATen.h>

#include "bezel/bridge/layers.h"
#include "bezel/bridge/loss.h"
#include "bezel/bridge/ops/linear.h"
#include "bezel/bridge/ops/rms_norm.h"
#include "bezel/bridge/ops/softcap.h"
#include "bezel/bridge/ops/unembed_loss.h"

namespace bezel::bridge {
namespace {

at::Tensor final_norm(const at::Tensor& stream, const Weights& weights, const Context& context,
                      hooks::Tap tap) {
  return ops::rms_norm(stream, weights.ln_final, context,
                       {"ln_final.hook_scale", "ln_final.hook_normalized"}, tap);
}

at::Tensor logits_of(const at::Tensor& normed, const Weights& weights, const ModelSpec& spec,
                     const Context& context, hooks::Tap tap) {
  const auto raw = tap("hook_unembed", ops::linear(normed, weights.unembed, context.path));
  return tap("hook_logits", spec.softcap ? ops::softcap(raw, *spec.softcap) : raw);
}

}  // namespace

at::Tensor unembed(const at::Tensor& stream, std::int64_t n_logits, const Weights& weights,
                   const ModelSpec& spec, const Context& context, hooks::Tap tap) {
  const auto normed = final_norm(stream, weights, context, tap);
  const auto last = normed.narrow(1, normed.size(1) - n_logits, n_logits);
  return logits_of(last, weights, spec, context, tap);
}

at::Tensor token_losses(const at::Tensor& stream, const at::Tensor& labels, const at::Tensor& valid,
                        const Weights& weights, const ModelSpec& spec, const Context& context,
                        hooks::Tap tap) {
  const auto normed = final_norm(stream, weights, context, tap);
  if (context.path != Path::kOpen && !tap.any_live({"hook_unembed", "hook_logits"}) &&
      ops::can_chunk_loss(normed, weights.unembed)) {
    return loss_per_token(normed, weights.unembed, spec.softcap, labels, valid);
  }
  return loss_per_token(logits_of(normed, weights, spec, context, tap), labels, valid);
}

}  // namespace bezel::bridge
