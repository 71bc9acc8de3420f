// e^x in float32, as kernels use it: every step vectorises.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace bezel::ops {

inline constexpr float kLowestExponent = -87.0F;  // e^-88 is no normal number

/// e^x for x up to 88, within 1.3e-7 of it; below -87 a small number; of NaN a number too.
/// 2^n · p(r), r in ±ln(2)/2, the polynomial of Cephes (Moshier 1984, expf).
[[gnu::always_inline]] inline float exponential(float x) {
  constexpr float kLog2E = 1.44269504F, kLn2High = 0.693359375F, kLn2Low = -2.12194440e-4F;
  constexpr float kRound = 12582912.0F;  // 1.5 · 2^23: adding it leaves an integer in the low bits
  const float bounded = std::min(88.0F, std::max(kLowestExponent, x));
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

}  // namespace bezel::ops
