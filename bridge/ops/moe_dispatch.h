// A linear layer whose matrix is chosen per token.
#pragma once

#include <ATen/core/Tensor.h>

#include "bezel/bridge/ops/context.h"

namespace bezel::ops {

/// x [batch pos k d_in], experts [batch pos k] int64, weights [expert d_out d_in] → [batch pos k
/// d_out]. Rows are sorted by expert, so that each expert that was chosen runs one product.
at::Tensor expert_linear(const at::Tensor& x, const at::Tensor& experts, const at::Tensor& weights,
                         Path path);

}  // namespace bezel::ops
