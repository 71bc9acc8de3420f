// What one run knows that is the same for every block.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>
#include <vector>

#include "bezel/bridge/ops/context.h"

namespace bezel::bridge {

using ops::Mask;
using ops::Path;
using ops::Rotation;

/// Keys and values that a block computed, for itself and for the blocks that share them.
struct KeysValues {
  at::Tensor keys, values;  // [batch k_pos kv_head d_head], after norm and RoPE
};

struct Context : ops::Settings {
  std::vector<Rotation> rotations;        // by layer (tensors are shared between equal layers)
  std::vector<Mask> masks;                // by layer
  std::function<void()> check_interrupt;  // called before each block; throws to stop the run
};

/// What blocks hand to later blocks beside the stream, by layer.
using DonatedKeys = std::vector<std::optional<KeysValues>>;

}  // namespace bezel::bridge
