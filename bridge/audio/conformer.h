// One conformer block (Gulati et al. 2020), as the Universal Speech Model has it (Zhang et al.
// 2023): half a feed-forward, attention in chunks, a light convolution, half a feed-forward.
#pragma once

#include <ATen/core/Tensor.h>

#include "bezel/bridge/ops/context.h"
#include "bezel/bridge/spec.h"
#include "bezel/bridge/weights.h"
#include "bezel/hooks/tap.h"

namespace bezel::bridge {

/// What all blocks of a run share.
struct ConformerContext {
  at::Tensor distances;  // [distance d_audio], the furthest first, in the model's dtype
  at::Tensor visible;    // [audio 1 chunk q_frame k_frame] bool
  ops::Path path;
};

/// Sines and cosines of the distances between a query and its keys.
at::Tensor distance_embeddings(const AudioEncoderSpec& spec, const at::TensorOptions& model);

/// Numbers of frames [audio frame], -1 at padding → those of the keys of each chunk [audio chunk
/// k_frame], -1 where there is none.
at::Tensor keys_of_chunks(const AudioEncoderSpec& spec, const at::Tensor& frames);

/// Which keys of its context a query sees; valid [audio frame] bool.
at::Tensor chunk_mask(const AudioEncoderSpec& spec, const at::Tensor& valid);

/// stream [audio frame d_audio] in and out.
at::Tensor conformer(at::Tensor stream, const ConformerWeights& weights,
                     const AudioEncoderSpec& spec, const ConformerContext& context, hooks::Tap tap);

/// x, normed, [audio frame d_audio] → the same, before the post-norm. Names: attn.*.
at::Tensor chunked_attention(const at::Tensor& x, const ConformerAttentionWeights& weights,
                             const AudioEncoderSpec& spec, const ConformerContext& context,
                             hooks::Tap tap);

}  // namespace bezel::bridge
