// The body of mask and softmax for one query: raw pointers, no torch; every step vectorises.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "bezel/bridge/ops/exponential.h"

namespace bezel::ops {

/// Numbers that are reduced by halves: the compiler may not reorder a running sum or maximum, but
/// the two halves of a block go side by side into vector registers.
struct ReductionBlock {
  static constexpr std::int64_t kSize = 64;
  float values[kSize];

  template <class Join>
  [[gnu::always_inline]] inline float reduced(const Join& join) {
    for (std::int64_t half = kSize / 2; half > 0; half /= 2) {
      for (std::int64_t i = 0; i < half; ++i) values[i] = join(values[i], values[i + half]);
    }
    return values[0];
  }
};

/// e^x for x <= 0; zero where that is no normal number, NaN where x is.
[[gnu::always_inline]] inline float exponential_of_drop(float x) {
  const float normal = x < kLowestExponent ? 0.0F : exponential(x);
  return x == x ? normal : x;
}

/// row [d] holds dots, then scores: dots + mask. Returns the largest.
template <class T>
[[gnu::always_inline]] inline float mask_row(T* row, const T* mask, std::int64_t d) {
  const auto larger = [](float a, float b) { return std::max(a, b); };
  float largest = std::numeric_limits<float>::lowest();
  for (std::int64_t begin = 0; begin < d; begin += ReductionBlock::kSize) {
    const std::int64_t n = std::min(ReductionBlock::kSize, d - begin);
    ReductionBlock block;
    for (std::int64_t i = 0; i < n; ++i) {
      row[begin + i] =
          static_cast<T>(static_cast<float>(row[begin + i]) + static_cast<float>(mask[begin + i]));
      block.values[i] = static_cast<float>(row[begin + i]);
    }
    for (std::int64_t i = n; i < ReductionBlock::kSize; ++i) block.values[i] = largest;
    largest = larger(largest, block.reduced(larger));
  }
  return largest;
}

template <class T>
[[gnu::always_inline]] inline float sum_of_exponentials(const T* scores, float largest,
                                                        std::int64_t d) {
  float sum = 0;
  for (std::int64_t begin = 0; begin < d; begin += ReductionBlock::kSize) {
    const std::int64_t n = std::min(ReductionBlock::kSize, d - begin);
    ReductionBlock block;
    for (std::int64_t i = 0; i < n; ++i) {
      block.values[i] = exponential_of_drop(static_cast<float>(scores[begin + i]) - largest);
    }
    for (std::int64_t i = n; i < ReductionBlock::kSize; ++i) block.values[i] = 0;
    sum += block.reduced([](float a, float b) { return a + b; });
  }
  return sum;
}

/// row [d] holds dots and then scores; mask, pattern [d].
template <class T>
[[gnu::always_inline]] inline void masked_softmax_row(T* row, const T* mask, T* pattern,
                                                      std::int64_t d) {
  const float largest = mask_row(row, mask, d);
  const float share = 1.0F / sum_of_exponentials(row, largest, d);
  for (std::int64_t i = 0; i < d; ++i) {
    pattern[i] = static_cast<T>(exponential_of_drop(static_cast<float>(row[i]) - largest) * share);
  }
}

}  // namespace bezel::ops
