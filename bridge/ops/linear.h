// Projections.
#pragma once

#include <ATen/core/Tensor.h>

#include "bezel/bridge/ops/context.h"

namespace bezel::ops {

/// x [… n_in], weight [n_out n_in] → [… n_out].
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, Path path);

}  // namespace bezel::ops
