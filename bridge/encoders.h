// The encoders of images and sound on one page: every component's signature. Soft tokens are what
// stands in the places of media tokens in the text.
#pragma once

#include <ATen/core/Tensor.h>

#include "bezel/bridge/context.h"
#include "bezel/bridge/media.h"
#include "bezel/bridge/ops/rms_norm.h"
#include "bezel/bridge/spec.h"
#include "bezel/bridge/weights.h"
#include "bezel/hooks/run.h"
#include "bezel/hooks/tap.h"

namespace bezel::bridge {

/// Images and frames → vision_encoder.hook_out [soft d_vision].
at::Tensor encode_images(const Images& images, const ModelSpec& spec,
                         const VisionEncoderWeights& weights, const Context& context,
                         hooks::Run& run);

/// Images and frames → soft tokens [soft d_vision], one for each valid patch.
at::Tensor embed_images(const Images& images, const VisionEmbedderWeights& weights,
                        const Context& context, hooks::Tap tap);

/// Clips → audio_encoder.hook_out [audio frame d_audio_out].
at::Tensor encode_sound(const Sound& sound, const ModelSpec& spec,
                        const AudioEncoderWeights& weights, const Context& context,
                        hooks::Run& run);

/// The names of a projector.
struct ProjectorHooks {
  hooks::HookId in;
  ops::NormHooks norm;
  hooks::HookId out;
};

/// Weightless RMSNorm and projection: [… d_in] → [… d_model].
at::Tensor project_soft_tokens(const at::Tensor& x, const at::Tensor& weight,
                               const ProjectorSpec& spec, const ProjectorHooks& names,
                               const Context& context, hooks::Tap tap);

/// What is put into the text; undefined where there is none.
struct Features {
  at::Tensor images;  // [soft d_model]: of images, then of videos
  at::Tensor audio;   // [soft d_model]: of valid frames
};
Features encode_media(const PreparedMedia& media, const ModelSpec& spec, const Weights& weights,
                      const Context& context, hooks::Run& run);

/// embeddings [batch pos d_model] with the features in their places.
at::Tensor merge(const at::Tensor& embeddings, const Features& features, const PreparedMedia& media,
                 const MediaPlaces& places);

}  // namespace bezel::bridge
