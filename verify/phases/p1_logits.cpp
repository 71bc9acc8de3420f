#include "bezel/verify/phases/p1_logits.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "bezel/verify/subject.h"

namespace bezel::verify {
namespace {

// The same as arrays, by positions of the whole.
struct Got {
  explicit Got(const SeenLogits& seen)
      : first(static_cast<std::size_t>(seen.first)),
        tops(to_xarray(seen.top)),
        sums(to_xarray(seen.log_sum_exp)),
        tokens(to_whole_xarray(seen.likeliest)) {}

  float top(std::size_t row, std::size_t pos, std::size_t i) const {
    return tops(row, pos - first, i);
  }
  float sum(std::size_t row, std::size_t pos) const { return sums(row, pos - first); }
  std::int64_t likeliest(std::size_t row, std::size_t pos) const {
    return tokens(row, pos - first);
  }

  std::size_t first;
  xt::xarray<float> tops, sums;
  xt::xarray<std::int64_t> tokens;
};

// A row of logits may be a megabyte: some positions at a time are widened.
at::Tensor log_sum_exp(const at::Tensor& logits) {
  constexpr std::int64_t kAtOnce = std::int64_t{1} << 20;  // elements, in a cache
  const std::int64_t n_pos = logits.size(1);
  const std::int64_t n = std::max<std::int64_t>(1, kAtOnce / (logits.size(0) * logits.size(2)));
  std::vector<at::Tensor> sums;
  for (std::int64_t pos = 0; pos < n_pos; pos += n) {
    const auto part = logits.narrow(1, pos, std::min(n, n_pos - pos));
    sums.push_back(at::logsumexp(part.to(at::kDouble), -1));
  }
  return at::cat(sums, 1);
}

// Infinite for a NaN, which is neither larger nor smaller than what follows it.
double distance(float got, float want) {
  const double apart = std::abs(static_cast<double>(got) - static_cast<double>(want));
  return std::isnan(apart) ? INFINITY : apart;
}

double kl_at(std::size_t row, std::size_t pos, const Got& got, const ReferenceLogits& want) {
  constexpr double kLeast = 1e-7;  // what float32 leaves of 1 - a sum near 1
  double kl = 0, ours = 0, theirs = 0;
  for (std::size_t i = 0; i < want.top_ids.shape(2); ++i) {
    const double log_p = static_cast<double>(want.top_values(row, pos, i)) -
                         static_cast<double>(want.log_sum_exp(row, pos));
    const double log_q =
        static_cast<double>(got.top(row, pos, i)) - static_cast<double>(got.sum(row, pos));
    kl += std::exp(log_p) * (log_p - log_q);
    theirs += std::exp(log_p);
    ours += std::exp(log_q);
  }
  const double p = std::max(1 - theirs, kLeast), q = std::max(1 - ours, kLeast);
  return kl + p * std::log(p / q);
}

template <class Function>
void at_valid(const Case& input, const Got& got, const Function& function) {
  for (std::size_t row = 0; row < input.n_rows(); ++row) {
    for (std::size_t pos = got.first; pos < got.first + got.sums.shape(1); ++pos) {
      if (input.is_valid(row, pos)) function(row, pos);
    }
  }
}

}  // namespace

SeenLogits seen_logits(const at::Tensor& logits, const ReferenceLogits& reference,
                       std::int64_t first) {
  const auto ids = to_tensor(reference.top_ids).to(logits.device());
  return {.first = first,
          .top = logits.gather(-1, ids.narrow(1, first, logits.size(1))),
          .log_sum_exp = log_sum_exp(logits),
          .likeliest = std::get<1>(logits.max(-1))};  // argmax takes five times as long
}

SeenLogits joined(const std::vector<SeenLogits>& parts) {
  const auto all = [&](at::Tensor SeenLogits::*which) {
    std::vector<at::Tensor> tensors;
    tensors.reserve(parts.size());
    for (const SeenLogits& part : parts) tensors.push_back(part.*which);
    return at::cat(tensors, 1);
  };
  return {.first = parts.front().first,
          .top = all(&SeenLogits::top),
          .log_sum_exp = all(&SeenLogits::log_sum_exp),
          .likeliest = all(&SeenLogits::likeliest)};
}

LogitGaps gaps_of(const Case& input, const SeenLogits& seen, const ReferenceLogits& reference) {
  const Got got(seen);
  LogitGaps gaps;
  at_valid(input, got, [&](std::size_t row, std::size_t pos) {
    for (std::size_t i = 0; i < reference.top_ids.shape(2); ++i) {
      const float want = reference.top_values(row, pos, i);
      gaps.largest = std::max<double>(gaps.largest, std::abs(want));
      const double apart = distance(got.top(row, pos, i), want);
      if (apart <= gaps.top) continue;
      gaps.top = apart;
      gaps.place = {row, pos, static_cast<std::size_t>(reference.top_ids(row, pos, i))};
    }
    gaps.log_sum_exp =
        std::max(gaps.log_sum_exp, distance(got.sum(row, pos), reference.log_sum_exp(row, pos)));
  });
  return gaps;
}

Likelihoods likelihoods_of(const Case& input, const SeenLogits& seen,
                           const ReferenceLogits& reference) {
  const Got got(seen);
  Likelihoods found;
  at_valid(input, got, [&](std::size_t row, std::size_t pos) {
    found.kl += kl_at(row, pos, got, reference);
    found.n_top += got.likeliest(row, pos) == reference.top_ids(row, pos, 0) ? 1 : 0;
    found.n += 1;
  });
  return found;
}

}  // namespace bezel::verify
