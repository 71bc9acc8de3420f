#include "bezel/bridge/loss.h"

#include <ATen/ATen.h>

#include "bezel/bridge/ops/dtype.h"
#include "bezel/hooks/error.h"

namespace bezel::bridge {
namespace {

constexpr std::int64_t kIgnored = -100;  // the reference's ignore_index

// labels of the tokens to predict, with kIgnored wherever the pair does not count
at::Tensor targets(const at::Tensor& labels, const at::Tensor& valid) {
  const std::int64_t n_pairs = labels.size(1) - 1;
  auto next = labels.narrow(1, 1, n_pairs);
  if (!valid.defined()) return next;
  const auto both = valid.narrow(1, 0, n_pairs).logical_and(valid.narrow(1, 1, n_pairs));
  return next.masked_fill(~both, kIgnored);
}

}  // namespace

at::Tensor loss_per_token(const at::Tensor& logits, const at::Tensor& labels,
                          const at::Tensor& valid) {
  const auto predicting = ops::widened(logits.narrow(1, 0, logits.size(1) - 1));
  return at::cross_entropy_loss(predicting.transpose(1, 2), targets(labels, valid), {},
                                at::Reduction::None, kIgnored);
}

at::Tensor mean_loss(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& valid) {
  const auto counted = (targets(labels, valid) != kIgnored).sum();
  if (counted.item<std::int64_t>() == 0) {
    throw ArgumentError(
        "the loss has no pair of neighbouring valid tokens to average over; give at least two "
        "tokens");
  }
  return loss_per_token(logits, labels, valid).sum() / counted;
}

}  // namespace bezel::bridge
