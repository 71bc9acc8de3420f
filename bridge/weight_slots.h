// How slots are listed: names with a prefix, tensors with their shapes.
#pragma once

#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bezel/bridge/weights.h"

namespace bezel::bridge {

class SlotList {
 public:
  using Shape = std::vector<std::int64_t>;

  void in(std::string prefix) { prefix_ = std::move(prefix); }
  const std::string& prefix() const { return prefix_; }
  void add(const std::string& name, at::Tensor& tensor, Shape shape) {
    Shape rows = {shape[0]};
    slots_.push_back({prefix_ + name, &tensor, std::move(shape), std::move(rows)});
  }
  /// Matrices below each other.
  void add_joint(const std::string& name, at::Tensor& tensor, Shape rows, std::int64_t n_columns) {
    const auto n_rows = std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
    slots_.push_back({prefix_ + name, &tensor, {n_rows, n_columns}, std::move(rows)});
  }
  /// Numbers or vectors, one row each.
  void add_rows(const std::string& name, at::Tensor& tensor, Shape shape) {
    Shape rows(static_cast<std::size_t>(shape[0]), 1);
    slots_.push_back({prefix_ + name, &tensor, std::move(shape), std::move(rows), true});
  }
  std::vector<WeightSlot> take() { return std::move(slots_); }

 private:
  std::string prefix_;
  std::vector<WeightSlot> slots_;
};

template <class Part>
Part& room_for(std::optional<Part>& part) {
  return part ? *part : part.emplace();
}

/// What blocks of text and vision have; `d_model` is the width of their stream.
void add_block(SlotList& list, LayerWeights& weights, const LayerSpec& spec, std::int64_t d_model);
/// The slots of the encoders and projectors: "vision.…", "audio.…".
void add_media(SlotList& list, const ModelSpec& spec, Weights& weights);

}  // namespace bezel::bridge
