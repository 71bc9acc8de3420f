// Arithmetic that is delicate in bfloat16 runs in a wider type and is rounded once.
#pragma once

#include <ATen/core/Tensor.h>

#include <limits>

namespace bezel::ops {

/// float32, or float64 when the model runs in it.
inline at::ScalarType wide_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

/// The lowest finite number of a floating type: what hides a score from softmax.
inline double lowest(at::ScalarType type) {
  if (type == at::kDouble) return std::numeric_limits<double>::lowest();
  if (type == at::kBFloat16) return static_cast<float>(std::numeric_limits<at::BFloat16>::lowest());
  return std::numeric_limits<float>::lowest();
}

inline at::Tensor widened(const at::Tensor& x) { return x.to(wide_type(x.scalar_type())); }

}  // namespace bezel::ops
