#include <ATen/ATen.h>

#include "bezel/bridge/encoders.h"
#include "bezel/bridge/ops/linear.h"
#include "bezel/bridge/ops/rms_norm.h"

namespace bezel::bridge {

at::Tensor project_soft_tokens(const at::Tensor& x, const at::Tensor& weight,
                               const ProjectorSpec& spec, const ProjectorHooks& names,
                               const Context& context, hooks::Tap tap) {
  const auto in = tap(names.in, x);
  const ops::Settings settings{.path = context.path, .norm_eps = spec.norm_eps};
  const auto normed = ops::rms_norm(in, {}, settings, names.norm, tap);
  return tap(names.out, ops::linear(normed, weight, context.path));
}

}  // namespace bezel::bridge
