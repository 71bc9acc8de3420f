// The cap on the logits: cap * tanh(x / cap).
#pragma once

#include <ATen/core/Tensor.h>

namespace bezel::ops {

/// x of any shape → the same, in x's dtype, computed in float32 and rounded once.
at::Tensor softcap(const at::Tensor& x, double cap);

}  // namespace bezel::ops
