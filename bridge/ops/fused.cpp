#include "bezel/bridge/ops/fused.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

namespace bezel::ops::fused {

bool can_run(std::initializer_list<at::Tensor> inputs) {
  const auto type = inputs.begin()->scalar_type();
  if (type != at::kFloat && type != at::kBFloat16) return false;
  for (const at::Tensor& input : inputs) {
    if (!input.defined()) continue;
    const bool differentiates = c10::GradMode::is_enabled() && input.requires_grad();
    if (!input.is_cpu() || input.scalar_type() != type || input.numel() == 0 || differentiates) {
      return false;
    }
  }
  return true;
}

}  // namespace bezel::ops::fused
