// Rotations and masks of the last plain input, kept for one of the same length.
#pragma once

#include <cstdint>
#include <mutex>

#include "bezel/bridge/forward.h"

namespace bezel::bridge {

class PlacesShelf {
 public:
  /// For one model: always the same spec and options.
  Places places(const PreparedInput& input, const ModelSpec& spec, const at::TensorOptions& model);

 private:
  std::mutex mutex_;
  std::int64_t n_pos_ = 0;  // of the places kept; 0: none
  Places places_;
};

}  // namespace bezel::bridge
