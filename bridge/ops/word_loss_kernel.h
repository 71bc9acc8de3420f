// The body of the cross entropy over one row of words, behind the softcap: raw pointers, no torch.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "bezel/bridge/ops/exponential.h"
#include "bezel/bridge/ops/masked_softmax_kernel.h"

namespace bezel::ops {

/// cap · tanh(x / cap), the identity where cap is 0.
struct Softcap {
  float cap;

  struct Value {
    float y, slope;  // slope: dy/dx
  };

  /// Both from e = e^(−2|u|), u = x / cap: near zero tanh by the odd polynomial of Cephes (Moshier
  /// 1984, tanhf), elsewhere (1 − e) / (1 + e); 1 − tanh² is 4e / (1 + e)², of which nothing
  /// cancels.
  [[gnu::always_inline]] inline Value with_slope(float x) const {
    if (cap == 0) return {x, 1.0F};
    const float u = x / cap, square = u * u;
    const float e = exponential(-2.0F * std::abs(u)), share = 1.0F / (1.0F + e);
    float p = -5.70498872745e-3F;
    p = p * square + 2.06390887954e-2F;
    p = p * square - 5.37397155531e-2F;
    p = p * square + 1.33314422036e-1F;
    p = p * square - 3.33332819422e-1F;
    const float near = p * square * u + u;
    const float far = std::copysign((1.0F - e) * share, u);
    const float tanh = std::abs(u) < 0.625F ? near : far;
    return {x == x ? cap * tanh : x, 4.0F * e * share * share};
  }
  [[gnu::always_inline]] inline float operator()(float x) const { return with_slope(x).y; }
};

/// log Σ_i e^softcap(raw[i]) over raw [d], in blocks: the largest so far is taken out of each.
template <class T>
[[gnu::always_inline]] inline float log_sum_exp_row(const T* raw, std::int64_t d,
                                                    const Softcap& softcap) {
  const auto larger = [](float a, float b) { return std::max(a, b); };
  const auto plus = [](float a, float b) { return a + b; };
  float largest = std::numeric_limits<float>::lowest();
  double sum = 0;
  for (std::int64_t begin = 0; begin < d; begin += ReductionBlock::kSize) {
    const std::int64_t n = std::min(ReductionBlock::kSize, d - begin);
    ReductionBlock capped, block;
    for (std::int64_t i = 0; i < n; ++i) {
      capped.values[i] = softcap(static_cast<float>(raw[begin + i]));
    }
    for (std::int64_t i = n; i < ReductionBlock::kSize; ++i) capped.values[i] = largest;
    block = capped;
    const float before = largest;
    largest = larger(largest, block.reduced(larger));
    if (largest > before) sum *= exponential_of_drop(before - largest);
    for (std::int64_t i = 0; i < ReductionBlock::kSize; ++i) {
      const float part = exponential_of_drop(capped.values[i] - largest);
      block.values[i] = i < n ? part : 0.0F;
    }
    sum += static_cast<double>(block.reduced(plus));
  }
  return largest + static_cast<float>(std::log(sum));
}

/// raw [d] becomes the gradient of log_sum_exp − softcap(raw[target]).
template <class T>
[[gnu::always_inline]] inline void loss_gradient_row(T* raw, std::int64_t d, std::int64_t target,
                                                     float log_sum_exp, const Softcap& softcap) {
  const auto of_target = softcap.with_slope(static_cast<float>(raw[target]));
  for (std::int64_t i = 0; i < d; ++i) {
    const auto [y, slope] = softcap.with_slope(static_cast<float>(raw[i]));
    raw[i] = static_cast<T>(exponential_of_drop(y - log_sum_exp) * slope);
  }
  // e^x − 1 at once: a probability near one would leave nothing of the difference.
  raw[target] = static_cast<T>(std::expm1(of_target.y - log_sum_exp) * of_target.slope);
}

}  // namespace bezel::ops
