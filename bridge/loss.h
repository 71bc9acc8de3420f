// Next-token cross entropy.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace bezel::bridge {

/// logits [batch pos d_vocab], labels [batch pos] int64 (-100: ignored), valid [batch pos] bool or
/// undefined → [batch pos-1] nats, 0 where a pair is not counted. Computed in float32 or wider.
at::Tensor loss_per_token(const at::Tensor& logits, const at::Tensor& labels,
                          const at::Tensor& valid);

/// The same of the normed stream [batch pos d_model], without ever holding all logits.
at::Tensor loss_per_token(const at::Tensor& normed, const at::Tensor& unembed,
                          std::optional<double> softcap, const at::Tensor& labels,
                          const at::Tensor& valid);

/// How many pairs of neighbouring tokens count; throws ArgumentError when none does.
at::Tensor n_pairs(const at::Tensor& labels, const at::Tensor& valid);

/// The mean of losses per token over those pairs; throws as n_pairs() does.
at::Tensor mean_over_pairs(const at::Tensor& losses, const at::Tensor& labels,
                           const at::Tensor& valid);

/// Mean of the losses over those pairs; throws as both of the above do.
at::Tensor mean_loss(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& valid);

}  // namespace bezel::bridge
