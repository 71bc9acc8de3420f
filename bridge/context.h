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

/// What follows from where the tokens stand, by layer; tensors are shared between equal layers.
struct Places {
  std::vector<Rotation> rotations;
  std::vector<Mask> masks;
};

struct Context : ops::Settings, Places {
  std::function<void()> check_interrupt;  // called before each block; throws to stop the run
};

class KvCache;

/// What blocks hand on beside the stream: to later blocks, and to later runs.
struct RunState {
  std::vector<std::optional<KeysValues>> donated;  // by layer
  std::shared_ptr<KvCache> kv_cache;               // or nullptr
};

}  // namespace bezel::bridge
