#include "bezel/bridge/places_shelf.h"

#include <c10/core/InferenceMode.h>

namespace bezel::bridge {
namespace {

// Long inputs have large masks, and time enough to make them.
constexpr std::int64_t kLongestKept = 1024;  // tokens

}  // namespace

Places PlacesShelf::places(const PreparedInput& input, const ModelSpec& spec,
                           const at::TensorOptions& model) {
  if (!input.is_plain || input.n_pos > kLongestKept) return make_places(input, spec, model);
  const std::lock_guard lock(mutex_);
  if (n_pos_ != input.n_pos) {
    const c10::InferenceMode off(false);  // a later run may differentiate
    places_ = make_places(input, spec, model);
    n_pos_ = input.n_pos;
  }
  return places_;
}

}  // namespace bezel::bridge
