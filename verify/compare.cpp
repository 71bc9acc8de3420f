#include "bezel/verify/compare.h"

#include <cmath>
#include <limits>
#include <xtensor/xmath.hpp>
#include <xtensor/xsort.hpp>
#include <xtensor/xstrides.hpp>
#include <xtensor/xview.hpp>

namespace bezel::verify {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kOutlier = 10;  // times the error that the tolerance allows on average

std::vector<std::size_t> index_of(std::size_t flat, const xt::xarray<float>& like) {
  const auto index = xt::unravel_index(flat, like.shape());
  return {index.begin(), index.end()};
}

struct Sums {
  double difference = 0, got = 0, want = 0, product = 0;  // of squares; of got * want
  std::size_t n = 0;
};

void add(Sums& sums, double got, double want) {
  sums.difference += (got - want) * (got - want);
  sums.got += got * got;
  sums.want += want * want;
  sums.product += got * want;
  ++sums.n;
}

double cosine_of(const Sums& sums) {
  if (sums.got == 0 && sums.want == 0) return 1;
  return sums.got == 0 || sums.want == 0 ? 0 : sums.product / std::sqrt(sums.got * sums.want);
}

double relative_rms_of(const Sums& sums) {
  return sums.difference == 0 ? 0 : std::sqrt(sums.difference / sums.want);  // infinite for want 0
}

}  // namespace

Comparison compare(const xt::xarray<float>& got, const xt::xarray<float>& want, double tolerance) {
  Comparison result;
  const auto is_hidden = [](float x) { return x < kHidden; };
  Sums sums;
  std::optional<std::size_t> not_finite;
  std::size_t furthest = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const float g = got.flat(i), w = want.flat(i);
    if (is_hidden(w) && is_hidden(g)) continue;
    result.n_nan += std::isnan(g) ? 1 : 0;
    result.n_infinite += std::isinf(g) ? 1 : 0;
    if (!std::isfinite(g) || is_hidden(w) || is_hidden(g)) {
      if (!not_finite) not_finite = i;
      continue;
    }
    add(sums, g, w);
    const double apart = std::abs(static_cast<double>(g) - w);
    if (apart > result.max_abs) {
      result.max_abs = apart;
      furthest = i;
    }
  }
  result.relative_rms = not_finite ? kInfinity : relative_rms_of(sums);
  result.gap_squares = sums.difference;
  if (not_finite) result.gap_squares = kInfinity;
  result.want_squares = sums.want;
  result.cosine = cosine_of(sums);
  const double allowed =
      kOutlier * tolerance *
      std::sqrt(sums.want / static_cast<double>(std::max<std::size_t>(sums.n, 1)));
  std::size_t first = not_finite.value_or(furthest);
  for (std::size_t i = 0; i < first; ++i) {
    const double apart = std::abs(static_cast<double>(got.flat(i)) - want.flat(i));
    if (apart > allowed && !is_hidden(want.flat(i))) first = i;
  }
  if (want.size() > 0) result.first_bad = index_of(first, want);
  return result;
}

std::optional<std::vector<std::size_t>> first_difference(const xt::xarray<std::int64_t>& got,
                                                         const xt::xarray<std::int64_t>& want) {
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (got.flat(i) == want.flat(i)) continue;
    const auto index = xt::unravel_index(i, want.shape());
    return std::vector<std::size_t>(index.begin(), index.end());
  }
  return std::nullopt;
}

xt::xarray<double> log_sum_exp(const xt::xarray<float>& logits) {
  const xt::xarray<double> wide = xt::cast<double>(logits);
  const xt::xarray<double> highest = xt::amax(wide, {1}, xt::keep_dims);
  return xt::squeeze(highest, {1}) + xt::log(xt::sum(xt::exp(wide - highest), {1}));
}

double mean_kl(const xt::xarray<float>& got, const xt::xarray<float>& want) {
  const auto log_probs = [](const xt::xarray<float>& logits) {
    const xt::xarray<double> wide = xt::cast<double>(logits);
    return xt::xarray<double>(wide - xt::expand_dims(log_sum_exp(logits), 1));
  };
  const xt::xarray<double> p = log_probs(want), q = log_probs(got);
  return xt::mean(xt::sum(xt::exp(p) * (p - q), {1}))();
}

double top1_agreement(const xt::xarray<float>& got, const xt::xarray<float>& want) {
  return xt::mean(xt::cast<double>(xt::equal(xt::argmax(got, 1), xt::argmax(want, 1))))();
}

}  // namespace bezel::verify
