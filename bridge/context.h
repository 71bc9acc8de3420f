// What one run knows that is the same for every block.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "bezel/bridge/spec.h"

namespace bezel::bridge {

/// Which form of each op runs: a library kernel where nothing hidden is asked for, or always the
/// open one.
enum class Path : std::uint8_t { kAutomatic, kOpen };

/// cos and sin of each pair's angle.
struct Rotation {
  at::Tensor cos, sin;  // [batch|1 pos 1 d_head/2], float32 (float64 in a float64 model)
};

/// Which keys a query sees.
struct Mask {
  at::Tensor additive;  // [batch|1 1 q_pos k_pos], 0 or the lowest finite value, in the model's dtype
  bool causal_only = false;  // nothing but the causal rule: kernels can skip what it hides
};

/// Keys and values that a block computed, for itself and for the blocks that share them.
struct KeysValues {
  at::Tensor keys, values;  // [batch k_pos kv_head d_head], after norm and RoPE
};

struct Context {
  Path path = Path::kAutomatic;
  double norm_eps = 1e-6;
  at::Tensor positions;  // [batch|1 pos] int64
  std::vector<Rotation> rotations;  // by layer (tensors are shared between equal layers)
  std::vector<Mask> masks;          // by layer
  std::function<void()> check_interrupt;  // called before each block; throws to stop the run
};

/// What blocks hand to later blocks beside the stream, by layer.
using DonatedKeys = std::vector<std::optional<KeysValues>>;

}  // namespace bezel::bridge
