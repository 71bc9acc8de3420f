#include "bezel/bridge/ops/fused.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>

namespace bezel::ops::fused {

bool differentiates(std::initializer_list<at::Tensor> inputs) {
  return c10::GradMode::is_enabled() && std::ranges::any_of(inputs, [](const at::Tensor& input) {
           return input.defined() && input.requires_grad();
         });
}

bool can_run(std::initializer_list<at::Tensor> inputs) {
  const auto type = inputs.begin()->scalar_type();
  if (type != at::kFloat && type != at::kBFloat16) return false;
  for (const at::Tensor& input : inputs) {
    if (!input.defined()) continue;
    if (!input.is_cpu() || input.scalar_type() != type || input.numel() == 0) return false;
  }
  return !differentiates(inputs);
}

}  // namespace bezel::ops::fused
