// Next-token cross entropy.
#pragma once

#include <ATen/core/Tensor.h>

namespace bezel::bridge {

/// logits [batch pos d_vocab], labels [batch pos] int64 (-100: ignored), valid [batch pos] bool or
/// undefined → [batch pos-1] nats, 0 where a pair is not counted. Computed in float32 or wider.
at::Tensor loss_per_token(const at::Tensor& logits, const at::Tensor& labels,
                          const at::Tensor& valid);

/// Mean of the above over the pairs that count; throws ArgumentError when there are none.
at::Tensor mean_loss(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& valid);

}  // namespace bezel::bridge
