// Where gradients start when nothing before carries one.
#pragma once

#include <ATen/core/Tensor.h>

#include "bezel/hooks/run.h"

namespace bezel::bridge {

/// With frozen weights a gradient has nowhere to start: what enters a run becomes a leaf of it.
inline at::Tensor leaf_if_watched(at::Tensor value, const hooks::Run& run) {
  if (!run.plan().watches_gradients() || value.requires_grad()) return value;
  return value.detach().requires_grad_(true);
}

}  // namespace bezel::bridge
