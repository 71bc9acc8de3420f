#include "bezel/bridge/encoders.h"

#include <ATen/ATen.h>

#include "bezel/bridge/audio/conformer.h"

namespace bezel::bridge {
namespace {

constexpr ProjectorHooks kVision = {
    "vision_projector.hook_in",
    {"vision_projector.hook_scale", "vision_projector.hook_normalized"},
    "vision_projector.hook_out"};
constexpr ProjectorHooks kAudio = {
    "audio_projector.hook_in",
    {"audio_projector.hook_scale", "audio_projector.hook_normalized"},
    "audio_projector.hook_out"};

// What functions at the names of images and of sound are told of where values stand.
void place(const Images& images, hooks::Run& run) {
  run.place(hooks::Part::kVision, {images.positions, images.positions});
}

void place(const Sound& sound, const AudioSpec& spec, hooks::Run& run) {
  const auto& valid = sound.soft_valid;
  const auto number = at::arange(valid.size(1), valid.options().dtype(at::kLong));
  const auto frames = at::where(valid, number, -1);
  run.place(hooks::Part::kAudio,
            {frames, spec.encoder ? keys_of_chunks(*spec.encoder, frames) : frames});
}

at::Tensor image_features(const Images& images, const ModelSpec& spec, const Weights& weights,
                          const Context& context, hooks::Run& run) {
  place(images, run);
  const hooks::Tap tap(run, 0);
  const VisionWeights& w = *weights.vision;
  const auto soft = w.encoder ? encode_images(images, spec, *w.encoder, context, run)
                              : embed_images(images, *w.embedder, context, tap);
  return project_soft_tokens(soft, w.projection, spec.vision->projector, kVision, context, tap);
}

at::Tensor audio_features(const Sound& sound, const ModelSpec& spec, const Weights& weights,
                          const Context& context, hooks::Run& run) {
  place(sound, *spec.audio, run);
  const AudioWeights& w = *weights.audio;
  const auto frames =
      w.encoder ? encode_sound(sound, spec, *w.encoder, context, run) : sound.features;
  const auto projected = project_soft_tokens(frames, w.projection, spec.audio->projector, kAudio,
                                             context, hooks::Tap(run, 0));
  const auto place = sound.soft_valid.flatten().nonzero().squeeze(1);
  return projected.flatten(0, 1).index_select(0, place);
}

at::Tensor put_in(const at::Tensor& embeddings, const at::Tensor& places,
                  const at::Tensor& features) {
  if (!places.defined()) return embeddings;
  return embeddings.masked_scatter(places.unsqueeze(-1), features);
}

}  // namespace

Features encode_media(const PreparedMedia& media, const ModelSpec& spec, const Weights& weights,
                      const Context& context, hooks::Run& run) {
  Features features;
  if (media.has_images())
    features.images = image_features(media.images, spec, weights, context, run);
  if (media.has_audio()) features.audio = audio_features(media.sound, spec, weights, context, run);
  return features;
}

at::Tensor merge(const at::Tensor& embeddings, const Features& features, const PreparedMedia& media,
                 const MediaPlaces& places) {
  auto merged = embeddings;
  if (features.images.defined()) {
    const Images& images = media.images;
    merged = put_in(merged, places.image, features.images.narrow(0, 0, images.n_of_images));
    merged = put_in(merged, places.video,
                    features.images.narrow(0, images.n_of_images, images.n_of_videos));
  }
  if (features.audio.defined()) merged = put_in(merged, places.audio, features.audio);
  return merged;
}

}  // namespace bezel::bridge
