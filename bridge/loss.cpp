#include "bezel/bridge/loss.h"

#include <ATen/ATen.h>

#include <sstream>

#include "bezel/bridge/ops/dtype.h"
#include "bezel/bridge/ops/unembed_loss.h"
#include "bezel/hooks/error.h"

namespace bezel::bridge {
namespace {

constexpr std::int64_t kIgnored = -100;  // the reference's ignore_index

// values [batch pos …]
void check_labels(const at::Tensor& values, std::int64_t d_vocab, const at::Tensor& labels) {
  const auto batch_pos = values.sizes().slice(0, 2);
  if (at::isIntegralType(labels.scalar_type(), /*includeBool=*/false) &&
      labels.sizes() == batch_pos) {
    const auto counted = labels != kIgnored;
    const auto outside = at::logical_or(labels < 0, labels >= d_vocab);
    if (!at::logical_and(counted, outside).any().item<bool>()) return;
  }
  std::ostringstream text;
  text << "labels are " << labels.scalar_type() << " " << labels.sizes()
       << "; wanted token ids 0 to " << d_vocab - 1 << " (or " << kIgnored
       << ", ignored), [batch pos] = " << batch_pos;
  throw ArgumentError(text.str());
}

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
  check_labels(logits, logits.size(2), labels);
  const auto predicting = ops::widened(logits.narrow(1, 0, logits.size(1) - 1));
  const auto next = targets(labels.to(at::kLong), valid);
  const auto counted = next != kIgnored;
  const auto of_labels =
      predicting.gather(2, next.masked_fill(~counted, 0).unsqueeze(2)).squeeze(2);
  // Not torch's cross entropy, which adds up the words of a large vocabulary one by one in float32.
  return at::where(counted, predicting.logsumexp(2) - of_labels, 0);
}

at::Tensor loss_per_token(const at::Tensor& normed, const at::Tensor& unembed,
                          std::optional<double> softcap, const at::Tensor& labels,
                          const at::Tensor& valid) {
  check_labels(normed, unembed.size(0), labels);
  const auto next = targets(labels.to(at::kLong), valid);
  const auto rows = normed.narrow(1, 0, normed.size(1) - 1).flatten(0, 1);
  const auto words = next.flatten(), counted = (words != kIgnored).nonzero().squeeze(1);
  if (counted.numel() == words.numel())
    return ops::unembed_loss(rows, unembed, words, softcap).view(next.sizes());
  const auto nats = ops::unembed_loss(rows.index_select(0, counted), unembed,
                                      words.index_select(0, counted), softcap);
  return at::zeros({words.numel()}, nats.options()).index_copy(0, counted, nats).view(next.sizes());
}

at::Tensor n_pairs(const at::Tensor& labels, const at::Tensor& valid) {
  const auto counted = (targets(labels, valid) != kIgnored).sum();
  if (counted.item<std::int64_t>() == 0) {
    throw ArgumentError(
        "the loss has no pair of neighbouring valid tokens to average over; give at least two "
        "tokens");
  }
  return counted;
}

at::Tensor mean_over_pairs(const at::Tensor& losses, const at::Tensor& labels,
                           const at::Tensor& valid) {
  return losses.sum() / n_pairs(labels, valid);
}

at::Tensor mean_loss(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& valid) {
  return mean_over_pairs(loss_per_token(logits, labels, valid), labels, valid);
}

}  // namespace bezel::bridge
