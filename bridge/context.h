// What one run knows that is the same for every block.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
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

class KvCache;

/// What blocks hand on beside the stream: to later blocks, and to later runs.
struct RunState {
  std::vector<std::optional<KeysValues>> donated;  // by layer
  std::shared_ptr<KvCache> kv_cache;               // or nullptr
};

}  // namespace bezel::bridge
