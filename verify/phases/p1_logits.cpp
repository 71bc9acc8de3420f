#include "bezel/verify/phases/p1_logits.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "bezel/verify/subject.h"

namespace bezel::verify {
namespace {

/// Of the run: the logits of the reference's highest tokens, and the log-sum-exp of all.
struct Got {
  xt::xarray<float> top;  // [batch pos rank]
  xt::xarray<float> sum;  // [batch pos]
};

// A row of logits may be a megabyte: some positions at a time are widened.
at::Tensor log_sum_exp(const at::Tensor& logits) {
  constexpr std::int64_t kAtOnce = std::int64_t{1} << 23;  // elements
  const std::int64_t n_pos = logits.size(1);
  const std::int64_t n = std::max<std::int64_t>(1, kAtOnce / (logits.size(0) * logits.size(2)));
  std::vector<at::Tensor> sums;
  for (std::int64_t pos = 0; pos < n_pos; pos += n) {
    const auto part = logits.narrow(1, pos, std::min(n, n_pos - pos));
    sums.push_back(at::logsumexp(part.to(at::kDouble), -1));
  }
  return at::cat(sums, 1);
}

Got got_of(const at::Tensor& logits, const ReferenceLogits& reference) {
  const auto ids = to_tensor(reference.top_ids).to(logits.device());
  return {to_xarray(logits.gather(-1, ids)), to_xarray(log_sum_exp(logits))};
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
void at_valid(const Case& input, const ReferenceLogits& reference, const Function& function) {
  for (std::size_t row = 0; row < input.n_rows(); ++row) {
    for (std::size_t pos = 0; pos < reference.log_sum_exp.shape(1); ++pos) {
      if (input.is_valid(row, pos)) function(row, pos);
    }
  }
}

}  // namespace

LogitGaps gaps_of(const Case& input, const at::Tensor& logits, const ReferenceLogits& reference) {
  const Got got = got_of(logits, reference);
  LogitGaps gaps;
  at_valid(input, reference, [&](std::size_t row, std::size_t pos) {
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

Likelihoods likelihoods_of(const Case& input, const at::Tensor& logits,
                           const ReferenceLogits& reference) {
  const Got got = got_of(logits, reference);
  const auto likeliest = to_whole_xarray(logits.argmax(-1));
  Likelihoods found;
  at_valid(input, reference, [&](std::size_t row, std::size_t pos) {
    found.kl += kl_at(row, pos, got, reference);
    found.n_top += likeliest(row, pos) == reference.top_ids(row, pos, 0) ? 1 : 0;
    found.n += 1;
  });
  return found;
}

}  // namespace bezel::verify
