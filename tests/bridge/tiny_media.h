// Three small multimodal models, and one input for all of them: two rows of 16 tokens with two
// images of different sizes, a video of two frames and two clips of different lengths.
#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "tests/bridge/tiny.h"

namespace bezel::bridge {

constexpr std::int64_t kImageId = 20, kVideoId = 21, kAudioId = 22;
constexpr std::int64_t kPool = 2;  // patches along a side of a soft token
constexpr std::int64_t kPatchWidth = 12, kMelBands = 8, kRawWidth = 7;

inline VisionEncoderSpec tiny_vision(bool clips) {
  VisionEncoderSpec spec;
  spec.n_layers = 2;
  spec.d_vision = 8;
  spec.d_patch = kPatchWidth;
  spec.n_positions = 9;
  spec.pool = kPool;
  spec.standardises = !clips;
  spec.layer.attention.n_heads = 4;
  spec.layer.attention.n_kv_heads = clips ? 4 : 2;
  spec.layer.attention.d_head = 4;
  spec.layer.attention.rope = {.theta = 100.0, .n_rotated_pairs = 2, .n_axes = 2};
  spec.layer.mlp.d_mlp = 10;
  spec.layer.clips = clips;
  spec.layer.has_scalar = false;
  return spec;
}

inline AudioEncoderSpec tiny_audio() {
  AudioEncoderSpec spec;
  spec.n_layers = 2;
  spec.d_audio = 8;
  spec.n_heads = 2;
  spec.d_out = 5;
  spec.channels = {kMelBands, 3};
  spec.conv_width = 3;
  spec.chunk = spec.n_past = 2;  // the sines of distances count from n_past down to 0 then
  spec.softcap = 3.0;
  spec.hidden_score = -1e9;
  spec.clamp = 1e10;
  spec.clips = true;
  return spec;
}

inline ModelSpec with_media_ids(ModelSpec spec) {
  spec.media_ids = {kImageId, kVideoId, kAudioId};
  spec.pad_token_id = 0;
  return spec;
}

/// Like E2B: clipped vision, the audio encoder, per-layer embeddings, keys that are shared.
inline ModelSpec hearing_spec() {
  ModelSpec spec = with_media_ids(sharing_spec());
  spec.vision = VisionSpec{.encoder = tiny_vision(true), .embedder = {}, .projector = {8}};
  spec.audio = AudioSpec{.encoder = tiny_audio(), .projector = {5}};
  return spec;
}

/// Like 26B: standardised vision, no audio, images attend both ways.
inline ModelSpec seeing_spec() {
  ModelSpec spec = with_media_ids(experts_spec());
  spec.vision = VisionSpec{.encoder = tiny_vision(false), .embedder = {}, .projector = {8}};
  return spec;
}

/// Like 12B: no encoders.
inline ModelSpec unified_spec() {
  ModelSpec spec = with_media_ids(experts_spec());
  for (LayerSpec& layer : spec.layers) layer.moe.reset();
  const VisionEmbedderSpec embedder{.d_vision = 8, .d_patch = kPatchWidth, .n_positions = 9};
  spec.vision = VisionSpec{.encoder = {}, .embedder = embedder, .projector = {8}};
  spec.audio = AudioSpec{.encoder = {}, .projector = {kRawWidth}};
  return spec;
}

/// tiny_weights whose bounds clamp some numbers and not others.
inline Weights media_weights(const ModelSpec& spec, at::ScalarType type) {
  Weights weights = tiny_weights(spec, type);
  for (const WeightSlot& slot : weight_slots(spec, weights)) {
    if (!slot.name.ends_with("clips")) continue;
    const auto bounds = at::tensor({-1.1, 1.3, -0.9, 0.7}, at::kDouble);
    *slot.tensor = bounds.repeat({slot.shape[0] / 4}).to(type);
  }
  return weights;
}

inline Bridge media_bridge(const ModelSpec& spec, at::ScalarType type = at::kDouble) {
  return Bridge(spec, media_weights(spec, type));
}

/// The patches of a grid of columns and rows in a shuffled order, padding behind; [n_patches 2].
inline at::Tensor shuffled_grid(std::int64_t n_columns, std::int64_t n_rows,
                                std::int64_t n_patches) {
  const auto order = at::randperm(n_columns * n_rows, at::kLong);
  const auto places_in_order =
      at::stack({order.remainder(n_columns), order.floor_divide(n_columns)}, -1);
  return at::constant_pad_nd(places_in_order, {0, 0, 0, n_patches - n_columns * n_rows}, -1);
}

/// 3 soft tokens of images, 2 of videos (one in each frame), 10 of audio (6 and 4) if it is heard.
inline Media tiny_media(const ModelSpec& spec) {
  at::manual_seed(5);
  Media media;
  if (spec.vision->encoder) {
    media.image_position_ids = at::stack({shuffled_grid(4, 2, 10), shuffled_grid(2, 2, 10)});
    media.video_position_ids = at::stack({shuffled_grid(2, 2, 4), shuffled_grid(2, 2, 4)});
  } else {
    media.image_position_ids = at::stack({shuffled_grid(2, 1, 3), shuffled_grid(1, 1, 3)});
    media.video_position_ids = at::stack({shuffled_grid(1, 1, 1), shuffled_grid(1, 1, 1)});
  }
  media.video_position_ids = media.video_position_ids.unsqueeze(0);
  const auto pixels = [](const at::Tensor& positions) {
    auto shape = positions.sizes().vec();
    shape.back() = kPatchWidth;
    return at::rand(shape, at::kDouble);
  };
  media.pixel_values = pixels(media.image_position_ids);
  media.pixel_values_videos = pixels(media.video_position_ids);
  if (!spec.audio) return media;
  const bool hears = spec.audio->encoder.has_value();
  const std::int64_t n_frames = hears ? 21 : 6, n_valid = hears ? 13 : 4;
  media.input_features = at::randn({2, n_frames, hears ? kMelBands : kRawWidth}, at::kDouble);
  media.input_features_mask = at::ones({2, n_frames}, at::kLong);
  media.input_features_mask[1].narrow(0, n_valid, n_frames - n_valid).zero_();
  return media;
}

/// Two rows that have a place for each soft token of tiny_media.
inline at::Tensor media_tokens(const ModelSpec& spec) {
  constexpr auto kI = kImageId, kV = kVideoId;
  const auto kA = spec.audio ? kAudioId : std::int64_t{11};  // else a word
  const std::vector<std::int64_t> tokens = {1,  kI, kI, 2,  3,  kV, 4,  kA, kA, kA, kA,
                                            kA, kA, 5,  6,  7,  9,  8,  kI, 10, kV, 12,
                                            kA, kA, kA, kA, 13, 14, 15, 16, 17, 18};
  return at::tensor(tokens, at::kLong).view({2, 16});
}

inline Input media_input(const ModelSpec& spec) {
  return {.tokens = media_tokens(spec), .media = tiny_media(spec)};
}

inline const std::vector<Variant> kMediaVariants = {
    {"hearing", &hearing_spec}, {"seeing", &seeing_spec}, {"unified", &unified_spec}};

/// Tests that run on these models, in float64 on the open path.
class MediaTest : public ::testing::TestWithParam<Variant> {
 protected:
  static void SetUpTestSuite() { at::set_num_threads(1); }
  RunResult run(const hooks::Request& request) const { return run(request, input_); }
  RunResult run(const hooks::Request& request, const Input& input) const {
    return model_.run(input, request, {.path = Path::kOpen});
  }
  std::string name(hooks::SiteRow at) const { return model_.inventory().name(at); }
  /// Values of the encoders and projectors.
  std::vector<hooks::SiteRow> media_rows() const {
    std::vector<hooks::SiteRow> rows;
    for (const hooks::SiteRow at : model_.inventory().rows()) {
      if (model_.inventory().part(at) != hooks::Part::kText) rows.push_back(at);
    }
    return rows;
  }
  std::vector<hooks::Selector> every_name() const {
    std::vector<hooks::Selector> names;
    for (const hooks::SiteRow at : model_.inventory().rows()) names.emplace_back(name(at));
    return names;
  }

  Bridge model_ = media_bridge(GetParam().spec());
  Input input_ = media_input(model_.spec());
};

}  // namespace bezel::bridge
