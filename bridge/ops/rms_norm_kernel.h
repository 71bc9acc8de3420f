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
  const T* stream;    // [d] or nullptr: where the result joins
  T* out;             // [d] or nullptr
  T* joined;          // [d]: stream + out, where there is a stream
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

/// One pass for each thing to write: plain loops vectorise, and the row stays in the first cache.
template <class T>
[[gnu::always_inline]] inline void rms_norm_row(const RmsNormRow<T>& row, std::int64_t d,
                                                double eps) {
  const float scale = std::sqrt(mean_square(row.x, d) + static_cast<float>(eps));
  const float inverse = 1.0F / scale;  // a division an element would be half of the time
  const auto normed = [&](std::int64_t i) { return static_cast<float>(row.x[i]) * inverse; };
  const auto gained = [&](std::int64_t i) {
    return static_cast<T>(normed(i) * static_cast<float>(row.gain[i]));
  };
  const auto joined = [&](std::int64_t i, T out) {
    return static_cast<T>(static_cast<float>(row.stream[i]) + static_cast<float>(out));
  };
  if (row.scale != nullptr) *row.scale = scale;
  if (row.normalized != nullptr) {
    for (std::int64_t i = 0; i < d; ++i) row.normalized[i] = normed(i);
  }
  if (row.gain == nullptr) {
    for (std::int64_t i = 0; i < d; ++i) row.out[i] = static_cast<T>(normed(i));
  } else if (row.stream == nullptr) {
    for (std::int64_t i = 0; i < d; ++i) row.out[i] = gained(i);
  } else if (row.out == nullptr) {
    for (std::int64_t i = 0; i < d; ++i) row.joined[i] = joined(i, gained(i));
  } else {
    for (std::int64_t i = 0; i < d; ++i) row.out[i] = gained(i);
    for (std::int64_t i = 0; i < d; ++i) row.joined[i] = joined(i, row.out[i]);
  }
}

}  // namespace bezel::ops
