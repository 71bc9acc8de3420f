// The body of RoPE for one head at one position: raw pointers, no torch.
#pragma once

#include <cstdint>

namespace bezel::ops {

/// x, out [d]; cos, sin [d/2]. Pairs (i, i + d/2).
template <class T>
[[gnu::always_inline]] inline void rotate_row(const T* x, const float* cos, const float* sin,
                                              T* out, std::int64_t d) {
  const std::int64_t half = d / 2;
  for (std::int64_t i = 0; i < half; ++i) {
    const float first = static_cast<float>(x[i]);
    const float second = static_cast<float>(x[i + half]);
    out[i] = static_cast<T>(first * cos[i] - second * sin[i]);
    out[i + half] = static_cast<T>(second * cos[i] + first * sin[i]);
  }
}

}  // namespace bezel::ops
