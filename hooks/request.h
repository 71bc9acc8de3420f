// What a user asks of one run: values to keep, functions to apply.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bezel/hooks/selector.h"

namespace bezel::hooks {

enum class Direction : std::uint8_t { kForward, kBackward };

/// What a hook function is told about the value it is given.
struct HookSite {
  const std::string& name;  // "blocks.3.attn.hook_z"
  std::optional<int> layer;
  const HookPoint& point;
  Direction direction;
  int step;  // of a generation; 0 in a plain run
  /// int64, -1 at padding: absolute positions of tokens [batch pos]; at names of images the column
  /// and row of patches [image patch 2]; at names of sound the number of a frame [audio frame].
  const at::Tensor& positions;
  /// The same for the keys: [batch k_pos], [image k_patch 2], [audio chunk k_frame].
  const at::Tensor& key_positions;
};

/// Gets its own copy of the value (or, backward, of dL/d(value)). An undefined result keeps that
/// copy, with whatever was written into it; a defined one replaces it.
using HookFunction = std::function<at::Tensor(const at::Tensor& value, const HookSite& at)>;

struct Edit {
  Selector at;
  HookFunction function;
  Direction direction = Direction::kForward;
};

/// A forward edit: edit("blocks.3.attn.hook_z", [](Tensor z, const HookSite&) { … }).
inline Edit edit(Selector at, HookFunction function) {
  return {std::move(at), std::move(function), Direction::kForward};
}

/// Positions to keep of a value's pos and q_pos axes (never k_pos); negative counts from the end.
struct PosSlice {
  std::optional<std::int64_t> start, stop;
  std::int64_t step = 1;
  bool operator==(const PosSlice&) const = default;
};

struct Request {
  std::vector<Selector> names{};  // values to record
  std::vector<Edit> edits{};      // applied in this order
  bool gradients = false;         // record dL/d(value) of the recorded values as well
  std::optional<PosSlice> pos_slice{};
  std::optional<at::ScalarType> dtype{};  // of recorded floating values; default: as computed
  std::optional<at::Device> device{};     // of recorded values; default: where they are
};

}  // namespace bezel::hooks
