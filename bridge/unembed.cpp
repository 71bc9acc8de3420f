#include <ATen/ATen.h>

#include "bezel/bridge/layers.h"
#include "bezel/bridge/ops/linear.h"
#include "bezel/bridge/ops/rms_norm.h"
#include "bezel/bridge/ops/softcap.h"

namespace bezel::bridge {

at::Tensor unembed(const at::Tensor& stream, std::int64_t n_logits, const Weights& weights,
                   const ModelSpec& spec, const Context& context, hooks::Tap tap) {
  const auto normed = ops::rms_norm(stream, weights.ln_final, context,
                                    {"ln_final.hook_scale", "ln_final.hook_normalized"}, tap);
  const auto last = normed.narrow(1, normed.size(1) - n_logits, n_logits);
  const auto raw = tap("hook_unembed", ops::linear(last, weights.unembed, context.path));
  return tap("hook_logits", spec.softcap ? ops::softcap(raw, *spec.softcap) : raw);
}

}  // namespace bezel::bridge
