// The gate of the feed-forward: gelu(gate) * up.
#pragma once

#include <ATen/core/Tensor.h>

#include "bezel/bridge/ops/context.h"

namespace bezel::ops {

/// gate and up [… d], any dtype → [… d], computed in float32 and rounded once. GELU by its tanh
/// approximation (Hendrycks & Gimpel 2016), which the checkpoints name gelu_pytorch_tanh.
at::Tensor gated_gelu(const at::Tensor& gate, const at::Tensor& up, Path path);

}  // namespace bezel::ops
