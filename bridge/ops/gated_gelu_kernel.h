// The body of the gated GELU for one row: raw pointers, no torch; every step vectorises.
#pragma once

#include <cstdint>

#include "bezel/bridge/ops/exponential.h"

namespace bezel::ops {

/// GELU by its tanh form, x/2 · (1 + tanh u), written as x · sigmoid(2u): nothing cancels
/// for negative x.
[[gnu::always_inline]] inline float gelu(float x) {
  constexpr float kTwiceRootTwoOverPi = 1.59576912F, kCubic = 0.044715F;
  const float two_u = kTwiceRootTwoOverPi * (x + kCubic * x * x * x);
  return x / (1.0F + exponential(-two_u));
}

template <class T>
[[gnu::always_inline]] inline void gated_gelu_row(const T* gate, const T* up, T* out,
                                                  std::int64_t d) {
  for (std::int64_t i = 0; i < d; ++i) {
    out[i] = static_cast<T>(gelu(static_cast<float>(gate[i])) * static_cast<float>(up[i]));
  }
}

}  // namespace bezel::ops
