// Projections.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>

#include "bezel/bridge/ops/context.h"

namespace bezel::ops {

/// x [… n_in], weight [n_out n_in] → [… n_out].
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, Path path);

/// Bounds of a matrix that clamps what enters it and what leaves it.
class Clip {
 public:
  /// bounds [4]: the lowest and the highest that enters, the same of what leaves; undefined: none.
  explicit Clip(at::Tensor bounds) : bounds_(std::move(bounds)) {}
  at::Tensor entering(const at::Tensor& x) const { return clamped(x, 0); }
  at::Tensor leaving(const at::Tensor& y) const { return clamped(y, 2); }

 private:
  at::Tensor clamped(const at::Tensor& x, std::int64_t lowest) const;
  at::Tensor bounds_;
};

/// The Clip of matrix i of several, whose bounds [4 n] stand behind each other.
Clip clip_of(const at::Tensor& bounds, std::int64_t i);

/// The projection between its bounds.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const Clip& clip, Path path);

}  // namespace bezel::ops
