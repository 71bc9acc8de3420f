// Comparisons of values, in xtensor: nothing of the library under test takes part.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>
#include <xtensor/xarray.hpp>

namespace bezel::verify {

/// Scores that a mask hides hold the lowest number of their type: below this.
inline constexpr float kHidden = -1e8F;

struct Comparison {
  double max_abs = 0;       // of finite differences
  double relative_rms = 0;  // |got - want| / |want|; infinite when got is not finite where want is
  double gap_squares = 0, want_squares = 0;  // sums; the former infinite where relative_rms is for
                                             // what got has, not for a want of zeros
  double cosine = 1;                         // of got and want; 1 where both are zero
  std::size_t n_nan = 0, n_infinite = 0;     // of got
  /// The first element further off than ten times what the tolerance allows on average, or not
  /// finite; where there is none, the furthest one.
  std::vector<std::size_t> first_bad;
};

/// Both of one shape. Hidden scores must be hidden in both, and count no further.
Comparison compare(const xt::xarray<float>& got, const xt::xarray<float>& want, double tolerance);

/// The first index at which whole numbers differ.
std::optional<std::vector<std::size_t>> first_difference(const xt::xarray<std::int64_t>& got,
                                                         const xt::xarray<std::int64_t>& want);

/// Logits [row d_vocab] of both → mean over rows of KL(want ‖ got), in nats.
double mean_kl(const xt::xarray<float>& got, const xt::xarray<float>& want);

/// The share of rows [row d_vocab] whose highest logit is the same.
double top1_agreement(const xt::xarray<float>& got, const xt::xarray<float>& want);

/// Of logits [row d_vocab] → [row].
xt::xarray<double> log_sum_exp(const xt::xarray<float>& logits);

}  // namespace bezel::verify
