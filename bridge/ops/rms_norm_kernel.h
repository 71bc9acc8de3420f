// The body of RMSNorm for one row: raw pointers, no torch.
#pragma once

#include <cmath>
#include <cstdint>

namespace bezel::ops {

/// Where one row is read and written; what nobody asks for is nullptr.
template <class T>
struct RmsNormRow {
  const T* x;         // [d]
  const T* gain;      // [d] or nullptr
  T* out;             // [d]
  float* scale;       // [1] or nullptr
  float* normalized;  // [d] or nullptr
};

template <class T>
[[gnu::always_inline]] inline float mean_square(const T* x, std::int64_t d) {
  constexpr int kLanes = 16;  // sums side by side: the compiler may not reorder one sum
  float sums[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= d; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float value = static_cast<float>(x[i + lane]);
      sums[lane] += value * value;
    }
  }
  for (; i < d; ++i) sums[i % kLanes] += static_cast<float>(x[i]) * static_cast<float>(x[i]);
  float sum = 0;
  for (const float part : sums) sum += part;
  return sum / static_cast<float>(d);
}

template <class T, bool kGain, bool kInside>
[[gnu::always_inline]] inline void write_normed(const RmsNormRow<T>& row, float scale,
                                                std::int64_t d) {
  const float inverse = 1.0F / scale;  // a division an element would be half of the time
  for (std::int64_t i = 0; i < d; ++i) {
    float value = static_cast<float>(row.x[i]) * inverse;
    if constexpr (kInside) row.normalized[i] = value;
    if constexpr (kGain) value *= static_cast<float>(row.gain[i]);
    row.out[i] = static_cast<T>(value);
  }
}

template <class T>
[[gnu::always_inline]] inline void rms_norm_row(const RmsNormRow<T>& row, std::int64_t d,
                                                double eps) {
  const float scale = std::sqrt(mean_square(row.x, d) + static_cast<float>(eps));
  if (row.scale != nullptr) *row.scale = scale;
  const bool gain = row.gain != nullptr, inside = row.normalized != nullptr;
  if (gain && inside) write_normed<T, true, true>(row, scale, d);
  if (gain && !inside) write_normed<T, true, false>(row, scale, d);
  if (!gain && inside) write_normed<T, false, true>(row, scale, d);
  if (!gain && !inside) write_normed<T, false, false>(row, scale, d);
}

}  // namespace bezel::ops
