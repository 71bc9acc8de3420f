// The audio encoder: two convolutions, conformer blocks (Gulati et al. 2020), an output projection.
#include <ATen/ATen.h>

#include <utility>

#include "bezel/bridge/audio/conformer.h"
#include "bezel/bridge/encoders.h"
#include "bezel/bridge/inventory.h"
#include "bezel/bridge/ops/linear.h"

namespace bezel::bridge {
namespace {

using hooks::Tap;

// x [audio channel frame band] and which frames are valid → half as many of both.
at::Tensor subsample(const at::Tensor& x, const at::Tensor& valid, const SubsampleWeights& w,
                     double eps) {
  const auto heard = x * valid.to(x.scalar_type()).unsqueeze(1).unsqueeze(-1);
  const auto made = at::conv2d(heard, w.conv, {}, /*stride=*/2, /*padding=*/1);
  const auto last = made.permute({0, 2, 3, 1});  // channels last: they are normed
  return at::relu(at::layer_norm(last, {last.size(-1)}, w.norm, {}, eps));
}

at::Tensor embed_frames(const Sound& sound, const AudioEncoderSpec& spec,
                        const AudioEncoderWeights& w, const Context& context, hooks::Run& run) {
  const Tap tap(run, 0);
  const auto features = tap("audio_encoder.hook_features", sound.features);
  const auto half =
      tap("audio_encoder.subsample.0.hook_out",
          subsample(features.unsqueeze(1), sound.valid, w.subsample[0], spec.norm_eps));
  const auto half_valid = sound.valid.slice(1, 0, std::nullopt, 2);
  const auto quarter =
      tap("audio_encoder.subsample.1.hook_out",
          subsample(half.permute({0, 3, 1, 2}), half_valid, w.subsample[1], spec.norm_eps));
  return tap("audio_encoder.hook_embed", ops::linear(quarter.flatten(2), w.embed, context.path));
}

}  // namespace

at::Tensor encode_sound(const Sound& sound, const ModelSpec& spec,
                        const AudioEncoderWeights& weights, const Context& context,
                        hooks::Run& run) {
  const AudioEncoderSpec& own = *spec.audio->encoder;
  auto stream = embed_frames(sound, own, weights, context, run);
  const auto distances = distance_embeddings(own, stream.options());
  const auto visible = chunk_mask(own, sound.soft_valid);
  for (int layer = 0; layer < static_cast<int>(own.n_layers); ++layer) {
    if (context.check_interrupt) context.check_interrupt();
    stream = conformer(std::move(stream), weights.layers[layer], own,
                       {distances, visible, context.path}, Tap(run, audio_site(spec, layer)));
  }
  return hooks::Tap(run, 0)("audio_encoder.hook_out",
                            ops::linear(stream, weights.out, context.path) + weights.out_bias);
}

}  // namespace bezel::bridge
