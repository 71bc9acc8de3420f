// Arithmetic that is delicate in bfloat16 runs in a wider type and is rounded once.
#pragma once

#include <ATen/core/Tensor.h>

namespace bezel::ops {

/// float32, or float64 when the model runs in it.
inline at::ScalarType wide_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

inline at::Tensor widened(const at::Tensor& x) { return x.to(wide_type(x.scalar_type())); }

}  // namespace bezel::ops
