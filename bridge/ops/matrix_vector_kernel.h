// The body of a bfloat16 matrix-vector product: raw pointers, no torch. Its limit is the speed at
// which the matrix comes from memory, so that it reads several rows at a time, and asks for the
// next ones early.
#pragma once

#include <cstdint>
#include <cstring>

namespace bezel::ops {

inline constexpr int kRowsTogether = 8;  // of 1, 2, 4, 8: the fastest at rows of 1536 and 6144

using Lanes = float __attribute__((vector_size(64)));
inline constexpr int kLanes = 16;
inline constexpr int kLine = 32;  // bfloat16 numbers in a cache line: read whole, for rows that
                                  // stand multiples of 4096 bytes apart push each other out

/// bfloat16 is the upper half of a float32.
template <class BFloat16>
[[gnu::always_inline]] inline void widen(const BFloat16* x, Lanes& lanes) {
  using Halves = std::uint16_t __attribute__((vector_size(32)));
  using Words = std::uint32_t __attribute__((vector_size(64)));
  Halves halves;
  std::memcpy(&halves, x, sizeof(halves));
  const Words words = __builtin_convertvector(halves, Words) << 16;
  std::memcpy(&lanes, &words, sizeof(lanes));
}

/// y[r] = Σ_i w[r d + i] x[i] for n_rows neighbouring rows, summed in float32.
template <int n_rows, class BFloat16>
[[gnu::always_inline]] inline void row_products(const BFloat16* w, const BFloat16* x, BFloat16* y,
                                                std::int64_t d) {
  Lanes sums[n_rows] = {};
  std::int64_t i = 0;
  for (; i + kLine <= d; i += kLine) {
    for (int r = 0; r < n_rows; ++r) {
      __builtin_prefetch(w + (r + n_rows) * d + i);  // past the end it is without effect
    }
    for (std::int64_t part = i; part < i + kLine; part += kLanes) {
      Lanes xs, ws;
      widen(x + part, xs);
      for (int r = 0; r < n_rows; ++r) {
        widen(w + r * d + part, ws);
        sums[r] += ws * xs;
      }
    }
  }
  for (int r = 0; r < n_rows; ++r) {
    float sum = 0;
    for (int lane = 0; lane < kLanes; ++lane) sum += sums[r][lane];
    for (std::int64_t j = i; j < d; ++j) {
      sum += static_cast<float>(w[r * d + j]) * static_cast<float>(x[j]);
    }
    y[r] = static_cast<BFloat16>(sum);
  }
}

}  // namespace bezel::ops
