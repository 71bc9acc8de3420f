#include "bezel/bridge/audio/conformer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "bezel/bridge/ops/dtype.h"
#include "bezel/bridge/ops/linear.h"
#include "bezel/bridge/ops/rms_norm.h"

namespace bezel::bridge {
namespace {

using hooks::HookId;
using hooks::Tap;
using ops::Clip;

constexpr double kNormEps = 1e-6;  // of the norms that the configuration does not speak of

struct MlpHooks {
  HookId pre, post, out;
};
constexpr MlpHooks kFf1 = {"ff1.hook_pre", "ff1.hook_post", "ff1.hook_out"};
constexpr MlpHooks kFf2 = {"ff2.hook_pre", "ff2.hook_post", "ff2.hook_out"};

at::Tensor normed(const at::Tensor& x, const at::Tensor& gain, double eps, ops::Path path) {
  return ops::rms_norm(x, gain, ops::Settings{path, eps});
}

// Against overflow, by the name of the configuration's field ("gradient_clipping") in training.
at::Tensor clamped(const at::Tensor& x, const AudioEncoderSpec& spec) {
  const double bound = std::min(spec.clamp, -ops::lowest(x.scalar_type()));
  return at::clamp(x, -bound, bound);
}

at::Tensor half_feed_forward(const at::Tensor& stream, const ConformerMlpWeights& w,
                             const AudioEncoderSpec& spec, const MlpHooks& names, ops::Path path,
                             Tap tap) {
  const auto x = normed(clamped(stream, spec), w.norm, kNormEps, path);
  const auto pre = tap(names.pre, ops::linear(x, w.up, Clip(w.up_clips), path));
  const auto post = tap(names.post, at::silu(pre));
  const auto down = clamped(ops::linear(post, w.down, Clip(w.down_clips), path), spec);
  return tap(names.out, normed(down, w.post_norm, kNormEps, path) * spec.residual_weight);
}

at::Tensor light_convolution(const at::Tensor& stream, const ConformerConvWeights& w,
                             const AudioEncoderSpec& spec, ops::Path path, Tap tap) {
  const auto x = normed(stream, w.norm, spec.norm_eps, path);
  const auto pre = tap("conv.hook_pre", ops::linear(x, w.start, Clip(w.start_clips), path));
  const auto gated = tap("conv.hook_glu", at::glu(pre, -1));
  const auto before = at::constant_pad_nd(gated.transpose(1, 2), {spec.conv_width - 1, 0});
  const auto convolved = tap("conv.hook_conv", at::conv1d(before, w.depthwise, {}, 1,
                                                          at::IntArrayRef({0}), 1, spec.d_audio)
                                                   .transpose(1, 2));
  const auto activated =
      at::silu(normed(clamped(convolved, spec), w.conv_norm, spec.norm_eps, path));
  return tap("conv.hook_out", ops::linear(activated, w.end, Clip(w.end_clips), path));
}

at::Tensor attention_branch(const at::Tensor& stream, const ConformerAttentionWeights& w,
                            const AudioEncoderSpec& spec, const ConformerContext& context,
                            Tap tap) {
  const auto x = normed(clamped(stream, spec), w.norm, kNormEps, context.path);
  const auto attended = clamped(chunked_attention(x, w, spec, context, tap), spec);
  return tap("hook_attn_out", normed(attended, w.post_norm, kNormEps, context.path));
}

}  // namespace

at::Tensor conformer(at::Tensor stream, const ConformerWeights& weights,
                     const AudioEncoderSpec& spec, const ConformerContext& context, Tap tap) {
  stream = tap("hook_resid_pre", stream);
  stream = stream + half_feed_forward(stream, weights.ff1, spec, kFf1, context.path, tap);
  stream = stream + attention_branch(stream, weights.attention, spec, context, tap);
  stream = stream + light_convolution(stream, weights.conv, spec, context.path, tap);
  stream = stream + half_feed_forward(stream, weights.ff2, spec, kFf2, context.path, tap);
  return tap("hook_resid_post",
             normed(clamped(stream, spec), weights.norm_out, kNormEps, context.path));
}

}  // namespace bezel::bridge
