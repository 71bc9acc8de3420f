// Next-token cross entropy.
#pragma once

#include <ATen/core/Tensor.h>

namespace bezel::bridge {

/// logits [batch pos d_vocab], labels [batch pos] int64 (-100: ignored), valid [batch pos] bool or
/// undefined → [batch pos-1] nats, 0 where a pair is not counted. Computed in float32 or wider.
at::Tensor loss_per_token(const at::Tensor& logits, const at::Tensor& labels,
                          const at::Tensor& valid);

/// How many pairs of neighbouring tokens count; throws ArgumentError when none does.
at::Tensor n_pairs(const at::Tensor& labels, const at::Tensor& valid);

/// Mean of the losses over those pairs; throws as both of the above do.
at::Tensor mean_loss(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& valid);

}  // namespace bezel::bridge
