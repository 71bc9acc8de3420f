// The logits of a run beside what a bundle keeps of the reference's.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "bezel/verify/phases/p1_compared.h"

namespace bezel::verify {

/// What is compared of a run's logits, from one position on.
struct SeenLogits {
  std::int64_t first = 0;  // the position
  at::Tensor top;          // [batch pos rank]: of the reference's highest tokens
  at::Tensor log_sum_exp;  // [batch pos], float64
  at::Tensor likeliest;    // [batch pos], int64
};
/// logits [batch pos d_vocab], the first of which stands at `first`.
SeenLogits seen_logits(const at::Tensor& logits, const ReferenceLogits& reference,
                       std::int64_t first);
/// Of neighbouring positions, in their order.
SeenLogits joined(const std::vector<SeenLogits>& parts);

struct LogitGaps {
  double top = 0;                  // largest gap of one of the highest logits
  std::vector<std::size_t> place;  // [batch pos d_vocab]: where that is
  double log_sum_exp = 0;          // largest gap
  double largest = 1;              // of the reference's logits, or 1
};
/// At valid positions.
LogitGaps gaps_of(const Case& input, const SeenLogits& seen, const ReferenceLogits& reference);

struct Likelihoods {
  double kl = 0;     // nats: sum over positions of KL(reference ‖ run)
  double n_top = 0;  // positions where both find the same likeliest token
  double n = 0;      // valid positions
};
/// The reference's highest tokens apart and all others as one: never more than the whole KL.
Likelihoods likelihoods_of(const Case& input, const SeenLogits& seen,
                           const ReferenceLogits& reference);

}  // namespace bezel::verify
