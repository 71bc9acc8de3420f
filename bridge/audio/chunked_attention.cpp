// Local attention in chunks, with sinusoidal distances (Dai et al. 2019, appendix B), in float32.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "bezel/bridge/audio/conformer.h"
#include "bezel/bridge/ops/dtype.h"
#include "bezel/bridge/ops/linear.h"

namespace bezel::bridge {
namespace {

using hooks::Tap;
using ops::Clip;

constexpr double kLn2 = 0.69314718055994530942;

std::int64_t n_chunks(const AudioEncoderSpec& spec, std::int64_t n_frames) {
  return (n_frames + spec.chunk - 1) / spec.chunk;
}

std::int64_t n_context(const AudioEncoderSpec& spec) {
  return spec.chunk + spec.n_past + spec.n_future;
}

// x [audio frame …] → [audio chunk q_frame …], zeros behind the last frame.
at::Tensor chunks(const at::Tensor& x, const AudioEncoderSpec& spec) {
  const auto n = n_chunks(spec, x.size(1));
  const auto padded = at::constant_pad_nd(x, {0, 0, 0, 0, 0, n * spec.chunk - x.size(1)});
  return padded.unflatten(1, {n, spec.chunk});
}

// x [audio frame …] → [audio chunk k_frame …]: each chunk with the frames before and behind it.
at::Tensor contexts(const at::Tensor& x, const AudioEncoderSpec& spec) {
  const auto n = n_chunks(spec, x.size(1));
  const auto behind = n * spec.chunk - x.size(1) + spec.n_future;
  const auto padded = at::constant_pad_nd(x, {0, 0, 0, 0, spec.n_past, behind});
  return padded.unfold(1, n_context(spec), spec.chunk).movedim(-1, 2);
}

// scores by distance [audio head chunk q_frame distance] → by key [… k_frame].
at::Tensor shifted(const at::Tensor& by_distance, const AudioEncoderSpec& spec) {
  const auto n_keys = n_context(spec);
  const auto wide = at::constant_pad_nd(by_distance, {0, n_keys + 1 - by_distance.size(-1)});
  return wide.flatten(-2).narrow(-1, 0, spec.chunk * n_keys).unflatten(-1, {spec.chunk, n_keys});
}

struct Heads {
  at::Tensor q, k, v;  // [audio frame head d_head], in the model's dtype
};

Heads project(const at::Tensor& x, const ConformerAttentionWeights& w, const AudioEncoderSpec& spec,
              ops::Path path, Tap tap) {
  const auto heads = [&](const at::Tensor& matrix, const at::Tensor& clips) {
    return ops::linear(x, matrix, Clip(clips), path).unflatten(-1, {spec.n_heads, -1});
  };
  Heads own;
  own.q = tap("attn.hook_q", heads(w.q, w.q_clips));
  own.k = tap("attn.hook_k", heads(w.k, w.k_clips));
  own.v = tap("attn.hook_v", heads(w.v, w.v_clips));
  return own;
}

// [audio head chunk q_frame k_frame]: products with keys and with distances, capped and masked.
at::Tensor scores_of(const Heads& own, const ConformerAttentionWeights& w,
                     const AudioEncoderSpec& spec, const ConformerContext& context) {
  const double d_head = static_cast<double>(own.q.size(-1));
  const double q_scale = 1 / std::sqrt(d_head) / kLn2, k_scale = std::log(1 + M_E) / kLn2;
  const auto q = ops::widened(own.q) * q_scale * at::softplus(w.per_dim_scale);
  const auto k = ops::widened(own.k) * k_scale;
  const auto queries = chunks(q, spec).permute({0, 3, 1, 2, 4});
  const auto keys = contexts(k, spec).permute({0, 3, 1, 4, 2});
  const auto relative = ops::widened(ops::linear(context.distances, w.relative, context.path))
                            .unflatten(-1, {spec.n_heads, -1})
                            .permute({1, 2, 0});  // [head d_head distance]
  const auto by_distance =
      at::matmul(queries.flatten(2, 3), relative).unflatten(2, queries.sizes().slice(2, 2));
  const auto sum = at::matmul(queries, keys) + shifted(by_distance, spec);
  const auto capped = at::tanh(sum / spec.softcap) * spec.softcap;
  return capped.masked_fill(context.visible.logical_not(), spec.hidden_score);
}

}  // namespace

at::Tensor distance_embeddings(const AudioEncoderSpec& spec, const at::TensorOptions& model) {
  constexpr double kLongest = 10'000;  // of the wave lengths, from 1 on
  const auto type = ops::wide_type(c10::typeMetaToScalarType(model.dtype()));
  const std::int64_t n_waves = spec.d_audio / 2;
  const double step =
      std::log(kLongest) / static_cast<double>(std::max<std::int64_t>(n_waves - 1, 1));
  const auto rates = at::exp(at::arange(n_waves, at::TensorOptions(type)) * -step);
  const auto distances = at::arange(n_context(spec) / 2, -1, -1, at::TensorOptions(type));
  const auto angles = distances.unsqueeze(1) * rates;
  return at::cat({angles.sin(), angles.cos()}, -1).to(model);
}

at::Tensor keys_of_chunks(const AudioEncoderSpec& spec, const at::Tensor& frames) {
  const auto from_one = (frames + 1).unsqueeze(-1).unsqueeze(-1);  // contexts are filled with zeros
  return contexts(from_one, spec).flatten(2) - 1;
}

at::Tensor chunk_mask(const AudioEncoderSpec& spec, const at::Tensor& valid) {
  const auto key = at::arange(n_context(spec), at::device(valid.device()).dtype(at::kLong));
  const auto query = at::arange(spec.chunk, key.options()).unsqueeze(1);
  const auto distance = query + spec.n_past - key;  // of a key before its query
  // The first n_past frames that end with the query's own, and those behind it.
  const auto near = (distance >= 0)
                        .logical_and(distance < spec.n_past)
                        .logical_or((distance < 0).logical_and(-distance < spec.n_future));
  // Frames behind the last one see nothing; padding sees what valid frames would.
  const auto as_numbers = [](const at::Tensor& flags) {
    return flags.to(at::kLong).unsqueeze(-1).unsqueeze(-1);
  };
  const auto of_keys = contexts(as_numbers(valid), spec).flatten(2).to(at::kBool);
  const auto is_frame = chunks(as_numbers(at::ones_like(valid)), spec).flatten(2).to(at::kBool);
  return near.logical_and(of_keys.unsqueeze(2)).logical_and(is_frame.unsqueeze(3)).unsqueeze(1);
}

at::Tensor chunked_attention(const at::Tensor& x, const ConformerAttentionWeights& w,
                             const AudioEncoderSpec& spec, const ConformerContext& context,
                             Tap tap) {
  const auto own = project(x, w, spec, context.path, tap);
  const auto scores = tap("attn.hook_attn_scores", scores_of(own, w, spec, context));
  const auto pattern = tap("attn.hook_pattern", at::softmax(scores, -1));
  const auto values = contexts(ops::widened(own.v), spec).permute({0, 3, 1, 2, 4});
  const auto mixed = at::matmul(pattern, values).permute({0, 2, 3, 1, 4}).flatten(1, 2);
  const auto z = tap("attn.hook_z", mixed.narrow(1, 0, x.size(1)).to(x.scalar_type()));
  return ops::linear(z.flatten(2), w.out, Clip(w.out_clips), context.path);
}

}  // namespace bezel::bridge
