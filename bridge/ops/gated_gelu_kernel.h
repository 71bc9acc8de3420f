// The body of the gated GELU for one row: raw pointers, no torch; every step vectorises.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace bezel::ops {

/// e^x for x up to 88, within 1.3e-7 of it; below -87 a small number. 2^n · p(r), r in ±ln(2)/2,
/// the polynomial of Cephes (Moshier 1984, expf).
[[gnu::always_inline]] inline float exponential(float x) {
  constexpr float kLog2E = 1.44269504F, kLn2High = 0.693359375F, kLn2Low = -2.12194440e-4F;
  constexpr float kRound = 12582912.0F;  // 1.5 · 2^23: adding it leaves an integer in the low bits
  const float bounded = std::min(88.0F, std::max(-87.0F, x));
  const float n = (bounded * kLog2E + kRound) - kRound;
  const float r = (bounded - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  const auto bits = (static_cast<std::int32_t>(n) + 127) << 23;
  return p * std::bit_cast<float>(bits);
}

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
