// What the ops of one run share.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

// One clone of a CPU kernel for each kind of vector unit; the processor's own is chosen at start.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define BEZEL_VECTOR_CLONES [[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]]
#else
#define BEZEL_VECTOR_CLONES
#endif

namespace bezel::ops {

/// Which form of each op runs: a library kernel where nothing hidden is asked for, or always the
/// open one.
enum class Path : std::uint8_t { kAutomatic, kOpen };

struct Settings {
  Path path = Path::kAutomatic;
  double norm_eps = 1e-6;
};

/// Pairs (i, i + d_head/2) turn by position * theta^(-2i/d_head) for i < n_rotated_pairs; the
/// others stand still ("proportional" RoPE).
struct RopeSpec {
  double theta = 1e4;
  std::int64_t n_rotated_pairs = 0;
  /// Images: 2. Each half of a head turns by a coordinate of its own, as a head of its width would.
  int n_axes = 1;
  bool operator==(const RopeSpec&) const = default;
};

/// cos and sin of each pair's angle.
struct Rotation {
  at::Tensor cos, sin;  // [batch|1 pos 1 d_head/2], float32 (float64 in a float64 model)
  int n_axes = 1;       // angles of the first half of a head, then of the second
};

/// Which keys a query sees, where a rule says it and kernels need no mask.
enum class Sees : std::uint8_t { kSome, kBefore, kAll };

/// Which keys a query sees.
struct Mask {
  /// [batch|1 1 q_pos k_pos], 0 or the lowest finite value, in the model's dtype
  at::Tensor additive;
  Sees sees = Sees::kSome;  // kBefore: its own and those before it; kAll: every key
};

}  // namespace bezel::ops
