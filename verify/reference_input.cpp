#include "bezel/verify/reference_input.h"

#include <ATen/ATen.h>

#include "bezel/verify/subject.h"

namespace bezel::verify {
namespace {

bridge::Media media_of(const ReferenceMedia& stored) {
  const auto numbers = [&](const char* argument) {
    const auto found = stored.numbers.find(argument);
    return found == stored.numbers.end() ? at::Tensor() : to_tensor(found->second);
  };
  const auto integers = [&](const char* argument) {
    const auto found = stored.integers.find(argument);
    return found == stored.integers.end() ? at::Tensor() : to_tensor(found->second);
  };
  return {.pixel_values = numbers("pixel_values"),
          .image_position_ids = integers("image_position_ids"),
          .pixel_values_videos = numbers("pixel_values_videos"),
          .video_position_ids = integers("video_position_ids"),
          .input_features = numbers("input_features"),
          .input_features_mask = integers("input_features_mask")};
}

}  // namespace

bridge::Input input_of(const Bundle& bundle, const std::string& name) {
  return {.tokens = to_tensor(bundle.tokens(name)),
          .attention_mask = to_tensor(bundle.mask(name)),
          .media = media_of(bundle.media(name))};
}

}  // namespace bezel::verify
