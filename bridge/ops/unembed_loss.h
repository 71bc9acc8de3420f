// From the normed stream to the cross entropy of each token, some rows of logits at a time: with
// 262,144 words and 8,192 tokens all logits would be 4 GiB, and twice as much with gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace bezel::ops {

inline constexpr std::int64_t kLogitBytes = std::int64_t{256} << 20;  // that are alive at a time

/// Where the logits are not asked for and the unembedding is not trained.
bool can_chunk_loss(const at::Tensor& x, const at::Tensor& weight);

/// x [row d_model], weight [d_vocab d_model], targets [row] int64 below d_vocab → nats [row]: −log
/// softmax of the target among softcap(x · weightᵀ), in float32. The gradient of x is made on the
/// way (as Hsu et al. 2024, Liger Kernel, do), so that no product is computed twice; its own
/// gradient is refused.
at::Tensor unembed_loss(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& targets,
                        std::optional<double> softcap, std::int64_t max_bytes = kLogitBytes);

}  // namespace bezel::ops
