#include "bezel/bridge/media.h"

#include <ATen/ATen.h>

#include <array>

#include "bezel/bridge/argument.h"
#include "bezel/bridge/ops/dtype.h"
#include "bezel/hooks/error.h"

namespace bezel::bridge {
namespace {

using argument::describe;
using argument::is_integer;
using argument::refuse;

enum Type : std::uint8_t { kText, kImage, kVideo, kAudio };  // of mm_token_type_ids

struct PixelArguments {
  const char *pixels, *positions;  // their names
  const char* axes;                // what stands before "patch": "image", "video frame"
};
constexpr PixelArguments kImageArguments = {"pixel_values", "image_position_ids", "image"};
constexpr PixelArguments kVideoArguments = {"pixel_values_videos", "video_position_ids",
                                            "video frame"};

void check_finite(const char* name, const at::Tensor& given) {
  if (given.isfinite().all().item<bool>()) return;
  throw ArgumentError(std::string(name) + " " + describe(given) +
                      " holds NaN or infinite numbers; wanted finite ones");
}

void check_pixels(const at::Tensor& pixels, const at::Tensor& positions, std::int64_t n_leading,
                  std::int64_t d_patch, const PixelArguments& names) {
  const std::string axes = std::string("[") + names.axes + " patch ";
  const bool fits = pixels.dim() == n_leading + 2 && pixels.is_floating_point() &&
                    pixels.numel() > 0 && pixels.size(-1) == d_patch;
  if (!fits) {
    refuse(names.pixels, pixels,
           "floats " + axes + "d_patch] with d_patch = " + std::to_string(d_patch));
  }
  if (!positions.defined()) {
    throw ArgumentError(std::string(names.positions) + " is missing; wanted int64 " + axes +
                        "2] beside " + names.pixels);
  }
  auto want = pixels.sizes().vec();
  want.back() = 2;
  if (!is_integer(positions) || positions.sizes() != at::IntArrayRef(want)) {
    refuse(names.positions, positions,
           "int64 " + axes + "2] for " + names.pixels + " " + describe(pixels));
  }
  check_finite(names.pixels, pixels);
}

// [image patch 2] and how many of a table's rows there are.
void check_positions(const at::Tensor& positions, std::int64_t n_positions,
                     const PixelArguments& names) {
  const auto lowest = positions.min().item<std::int64_t>();
  const auto highest = positions.max().item<std::int64_t>();
  if (lowest < -1 || highest >= n_positions) {
    throw ArgumentError(std::string(names.positions) + " run from " + std::to_string(lowest) +
                        " to " + std::to_string(highest) + "; wanted 0 to " +
                        std::to_string(n_positions - 1) + ", and -1 at padding");
  }
  const auto is_padding = positions == -1;
  if (is_padding.select(-1, 0).equal(is_padding.select(-1, 1))) return;
  throw ArgumentError(
      std::string(names.positions) +
      " has a patch with one coordinate -1; wanted both of them at padding, or none");
}

struct Checked {
  at::Tensor pixels, positions;  // [image patch d_patch], [image patch 2]; undefined: none
};

Checked checked(const at::Tensor& pixels, const at::Tensor& positions, std::int64_t n_leading,
                const VisionSpec& spec, const PixelArguments& names) {
  if (!pixels.defined()) {
    if (!positions.defined()) return {};
    throw ArgumentError(std::string(names.pixels) + " is missing beside " + names.positions);
  }
  const auto d_patch = spec.encoder ? spec.encoder->d_patch : spec.embedder->d_patch;
  const auto n_positions = spec.encoder ? spec.encoder->n_positions : spec.embedder->n_positions;
  check_pixels(pixels, positions, n_leading, d_patch, names);
  check_positions(positions, n_positions, names);
  return {pixels.flatten(0, -3), positions.flatten(0, -3)};
}

// Padded to the same number of patches, the second below the first.
at::Tensor below(const at::Tensor& first, const at::Tensor& second, double padding) {
  if (!first.defined()) return second;
  if (!second.defined()) return first;
  const auto n_patches = std::max(first.size(1), second.size(1));
  const auto padded = [&](const at::Tensor& one) {
    return at::constant_pad_nd(one, {0, 0, 0, n_patches - one.size(1)}, padding);
  };
  return at::cat({padded(first), padded(second)});
}

// The patches of each square, squares row by row within an image; [soft pool^2].
at::Tensor patches_by_square(const Images& images, std::int64_t pool) {
  const auto patch = images.valid.flatten().nonzero().squeeze(1);
  if (pool == 1) return patch.unsqueeze(1);  // soft tokens themselves, in the order they came
  const auto columns = images.positions.select(-1, 0), rows = images.positions.select(-1, 1);
  const std::int64_t n_images = images.valid.size(0);
  const auto side = images.positions.max() + 1;
  const auto of_image = at::arange(n_images, columns.options()).unsqueeze(1);
  // Image, row of squares, column of squares: one number that sorts.
  const auto square =
      (of_image * side + rows.floor_divide(pool)) * side + columns.floor_divide(pool);
  const auto key = square.flatten().index_select(0, patch);
  const auto order = std::get<1>(at::sort(key, /*stable=*/true, 0, false));
  const auto counts = std::get<2>(
      at::unique_consecutive(key.index_select(0, order), /*return_inverse=*/false, true));
  if ((counts == pool * pool).all().item<bool>()) {
    return patch.index_select(0, order).unflatten(0, {-1, pool * pool});
  }
  throw ArgumentError("image_position_ids (or video_position_ids): a soft token has " +
                      std::to_string(counts.min().item<std::int64_t>()) + " to " +
                      std::to_string(counts.max().item<std::int64_t>()) + " patches; wanted " +
                      std::to_string(pool * pool) + ", a square of " + std::to_string(pool) +
                      " columns and rows, each patch once");
}

Images prepare_images(const Media& media, const VisionSpec& spec, const at::TensorOptions& model) {
  const auto still =
      checked(media.pixel_values, media.image_position_ids, 1, spec, kImageArguments);
  const auto moving =
      checked(media.pixel_values_videos, media.video_position_ids, 2, spec, kVideoArguments);
  Images images;
  const auto wide = ops::wide_type(c10::typeMetaToScalarType(model.dtype()));
  images.pixels = below(still.pixels, moving.pixels, 0).to(model.device(), wide);
  images.positions = below(still.positions, moving.positions, -1).to(model.device(), at::kLong);
  images.valid = images.positions.select(-1, 0) >= 0;
  const auto n_valid = images.valid.sum(1);
  if (n_valid.min().item<std::int64_t>() == 0) {
    throw ArgumentError("image_position_ids (or video_position_ids): image " +
                        std::to_string(n_valid.argmin().item<std::int64_t>()) +
                        " has padding alone; wanted at least one patch");
  }
  const std::int64_t pool = spec.encoder ? spec.encoder->pool : 1;
  images.patches_of_soft = patches_by_square(images, pool);
  const std::int64_t n_still = still.pixels.defined() ? still.pixels.size(0) : 0;
  images.n_of_images = n_valid.narrow(0, 0, n_still).sum().item<std::int64_t>() / (pool * pool);
  images.n_of_videos = images.patches_of_soft.size(0) - images.n_of_images;
  return images;
}

// [audio mel_frame] bool of ones where nothing is given.
at::Tensor valid_frames(const at::Tensor& mask, const at::Tensor& features) {
  const auto shape = features.sizes().slice(0, 2);
  if (!mask.defined()) return at::ones(shape, features.options().dtype(at::kBool));
  if (mask.sizes() != shape || at::logical_and(mask != 0, mask != 1).any().item<bool>()) {
    refuse("input_features_mask", mask,
           "0 and 1 [audio frame] for input_features " + describe(features));
  }
  return mask.to(features.device(), at::kBool);
}

Sound prepare_sound(const Media& media, const AudioSpec& spec, const at::TensorOptions& model) {
  const auto& given = media.input_features;
  const auto width = spec.encoder ? spec.encoder->n_mel() : spec.projector.d_in;
  if (given.dim() != 3 || !given.is_floating_point() || given.numel() == 0 ||
      given.size(2) != width) {
    refuse("input_features", given,
           "floats [audio frame mel] with mel = " + std::to_string(width) +
               ", at least one clip and frame");
  }
  check_finite("input_features", given);
  Sound sound;
  sound.features = given.to(model.device(), model.dtype().toScalarType());
  sound.valid = valid_frames(media.input_features_mask, sound.features);
  sound.soft_valid = sound.valid;
  if (spec.encoder) {  // two convolutions of stride 2
    sound.soft_valid = sound.valid.slice(1, 0, std::nullopt, 2).slice(1, 0, std::nullopt, 2);
  }
  if (!sound.soft_valid.any(1).all().item<bool>()) {
    throw ArgumentError("input_features_mask: a clip has padding alone; wanted frames in each");
  }
  sound.n_soft = sound.soft_valid.sum().item<std::int64_t>();
  return sound;
}

// The first of the wrong ones [batch pos].
[[noreturn]] void refuse_type(const at::Tensor& types, const at::Tensor& tokens,
                              const at::Tensor& wrong) {
  constexpr std::array kNames = {"text", "image", "video", "audio"};
  const auto place = wrong.nonzero()[0];
  const auto row = place[0].item<std::int64_t>(), pos = place[1].item<std::int64_t>();
  const auto type = types[row][pos].item<std::int64_t>();
  const std::string name = kNames.at(static_cast<std::size_t>(type));
  throw ArgumentError("mm_token_type_ids at [" + std::to_string(row) + ", " + std::to_string(pos) +
                      "] is " + std::to_string(type) + " (" + name + "), and the token there is " +
                      std::to_string(tokens[row][pos].item<std::int64_t>()) +
                      ", which stands for no " + name + "; wanted the model's " + name +
                      " id there, or 0 (text)");
}

at::Tensor where_any(const at::Tensor& places) {
  return places.any().item<bool>() ? places : at::Tensor();
}

void check_count(const char* token, const at::Tensor& places, std::int64_t n_soft,
                 const char* argument) {
  const auto n_tokens = places.defined() ? places.sum().item<std::int64_t>() : 0;
  if (n_tokens == n_soft) return;
  if (n_soft == 0) {
    throw ArgumentError("tokens hold " + std::to_string(n_tokens) + " " + token + " tokens, and " +
                        argument + " is missing; give it, or leave these tokens out");
  }
  throw ArgumentError("tokens hold " + std::to_string(n_tokens) + " " + token + " tokens; " +
                      argument + " makes " + std::to_string(n_soft) +
                      " soft tokens, wanted as many");
}

}  // namespace

PreparedMedia prepare_media(const Media& media, const ModelSpec& spec,
                            const at::TensorOptions& model) {
  PreparedMedia prepared;
  const auto unsupported = [](const char* argument, const char* part) {
    throw UnsupportedError(std::string(argument) + " was given; this model has no part for " +
                           part + ", or was loaded without it (modalities)");
  };
  const bool images = media.has_images() || media.image_position_ids.defined() ||
                      media.video_position_ids.defined();
  if (images && !spec.vision) unsupported("pixel_values", "images");
  if (images) prepared.images = prepare_images(media, *spec.vision, model);
  if (media.has_audio() && !spec.audio) unsupported("input_features", "audio");
  if (media.has_audio()) prepared.sound = prepare_sound(media, *spec.audio, model);
  if (!media.has_audio() && media.input_features_mask.defined()) {
    throw ArgumentError("input_features is missing beside input_features_mask");
  }
  return prepared;
}

at::Tensor types_of(const MediaPlaces& places) {
  at::Tensor types;
  const auto add = [&](const at::Tensor& of_one, Type type) {
    if (!of_one.defined()) return;
    if (!types.defined()) types = at::zeros_like(of_one, at::kLong);
    types = types.masked_fill(of_one, static_cast<std::int64_t>(type));
  };
  add(places.image, kImage);
  add(places.video, kVideo);
  add(places.audio, kAudio);
  return types;
}

MediaPlaces places_of_ids(const at::Tensor& tokens, std::int64_t highest, const ModelSpec& spec) {
  // Media ids stand behind those of words: most texts are known to hold none without a look.
  const auto places = [&](const std::optional<std::int64_t>& id) {
    return id && highest >= *id ? where_any(tokens == *id) : at::Tensor();
  };
  const MediaIds& ids = spec.media_ids;
  return {places(ids.image), places(ids.video), places(ids.audio)};
}

MediaPlaces places_of_types(const at::Tensor& types, const at::Tensor& tokens,
                            const MediaPlaces& by_id, const PreparedMedia& media) {
  const auto places = [](const at::Tensor& of_all) -> MediaPlaces {
    return {where_any(of_all == kImage), where_any(of_all == kVideo), where_any(of_all == kAudio)};
  };
  if (!tokens.defined()) return media.any() ? places(types) : MediaPlaces();
  auto of_ids = types_of(by_id);
  if (!of_ids.defined()) {
    if (!media.any()) return {};
    of_ids = at::zeros_like(types);
  }
  auto wrong = at::logical_and(types != kText, types != of_ids);
  if (!media.any()) wrong = wrong.logical_and(of_ids != kText);
  if (wrong.any().item<bool>()) refuse_type(types, tokens, wrong);
  return places(at::where(of_ids == kText, of_ids, types));
}

void check_counts(const MediaPlaces& places, const PreparedMedia& media) {
  check_count("image", places.image, media.images.n_of_images, "pixel_values");
  check_count("video", places.video, media.images.n_of_videos, "pixel_values_videos");
  check_count("audio", places.audio, media.sound.n_soft, "input_features");
}

}  // namespace bezel::bridge
