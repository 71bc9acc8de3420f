// RMSNorm in one pass over its input, with its inner values as side outputs.
#pragma once

#include <ATen/core/Tensor.h>

namespace bezel::ops::fused {

struct NormValues {
  at::Tensor out;         // [… d], in x's dtype
  at::Tensor scale;       // [… 1] float32; undefined unless inner values were asked for
  at::Tensor normalized;  // [… d] float32; the same
};

enum class NormOutputs : std::uint8_t { kOut, kAll };

/// True where the kernel exists: float32 or bfloat16 on CPU, and nothing to differentiate.
bool can_rms_norm(const at::Tensor& x, const at::Tensor& gain);

NormValues rms_norm(const at::Tensor& x, const at::Tensor& gain, double eps, NormOutputs outputs);

}  // namespace bezel::ops::fused
