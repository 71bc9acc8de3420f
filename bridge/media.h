// Images, video frames and sound as a run takes them, and checked and laid out as the encoders do.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "bezel/bridge/spec.h"

namespace bezel::bridge {

/// What the checkpoint's processor makes. Undefined: there is none.
struct Media {
  at::Tensor pixel_values{};         // [image patch d_patch], 0 to 1
  at::Tensor image_position_ids{};   // [image patch 2] int64: column, row; -1 at padding
  at::Tensor pixel_values_videos{};  // [video frame patch d_patch]
  at::Tensor video_position_ids{};   // [video frame patch 2]
  at::Tensor input_features{};       // [audio mel_frame mel]; without an encoder [audio frame d]
  at::Tensor input_features_mask{};  // [audio mel_frame], 0 at padding; undefined: all are valid

  bool has_images() const { return pixel_values.defined() || pixel_values_videos.defined(); }
  bool has_audio() const { return input_features.defined(); }
};

/// Images, and behind them the frames of each video.
struct Images {
  at::Tensor pixels;     // [image patch d_patch], float32 (float64 in a float64 model)
  at::Tensor positions;  // [image patch 2] int64, -1 at padding
  at::Tensor valid;      // [image patch] bool
  /// [soft patches_of_one] int64: the places, in image * patch, of the patches of each soft token;
  /// soft tokens image by image, row by row (where each has one patch: in the order they came).
  at::Tensor patches_of_soft;
  std::int64_t n_of_images = 0, n_of_videos = 0;  // soft tokens
};

struct Sound {
  at::Tensor features;    // [audio mel_frame mel], in the model's dtype
  at::Tensor valid;       // [audio mel_frame] bool
  at::Tensor soft_valid;  // [audio frame] bool: which frames of the encoder become soft tokens
  std::int64_t n_soft = 0;
};

struct PreparedMedia {
  Images images;  // pixels undefined: none
  Sound sound;    // features undefined: none
  bool has_images() const { return images.pixels.defined(); }
  bool has_audio() const { return sound.features.defined(); }
  bool any() const { return has_images() || has_audio(); }
};

/// Throws ArgumentError that names the argument, what it is and what it should be, and
/// UnsupportedError for media that the model has no part for.
PreparedMedia prepare_media(const Media& media, const ModelSpec& spec,
                            const at::TensorOptions& model);

/// Which tokens stand for soft tokens [batch pos] bool; undefined where no token does.
struct MediaPlaces {
  at::Tensor image, video, audio;
  bool any() const { return image.defined() || video.defined() || audio.defined(); }
};

/// 0 text, 1 image, 2 video, 3 audio [batch pos]; undefined where all is text.
at::Tensor types_of(const MediaPlaces& places);

/// Where ids of media stand; highest: the largest of the ids.
MediaPlaces places_of_ids(const at::Tensor& tokens, std::int64_t highest, const ModelSpec& spec);

/// Those of them whose types (types_of) say so: a media id of type 0 was generated and is text.
/// Without tokens the types alone. Throws ArgumentError where a type contradicts an id. Without
/// media the types of ordinary ids say only which of them see each other.
MediaPlaces places_of_types(const at::Tensor& types, const at::Tensor& tokens,
                            const MediaPlaces& by_id, const PreparedMedia& media);

/// Throws ArgumentError where the tokens are not as many as the soft tokens.
void check_counts(const MediaPlaces& places, const PreparedMedia& media);

}  // namespace bezel::bridge
