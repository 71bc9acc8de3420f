// Projections.
#pragma once

#include <ATen/core/Tensor.h>

namespace bezel::ops {

/// x [… n_in], weight [n_out n_in] → [… n_out].
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight);

}  // namespace bezel::ops
