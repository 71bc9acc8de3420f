// Rotary position embedding (Su et al. 2021), pairs (i, i + d_head/2).
#pragma once

#include <ATen/core/Tensor.h>

#include "bezel/bridge/ops/context.h"

namespace bezel::ops {

/// Angles at positions [batch|1 pos] for heads of d_head, in float32 (or float64 for a float64
/// model).
Rotation make_rotation(const at::Tensor& positions, const RopeSpec& spec, std::int64_t d_head,
                       at::ScalarType model_type);

/// Angles at positions [image patch 2]: a column and a row, one for each half of a head.
Rotation make_axial_rotation(const at::Tensor& positions, const RopeSpec& spec, std::int64_t d_head,
                             at::ScalarType model_type);

/// x [batch pos head d_head] → the same, turned by its position, in x's dtype, rounded once.
at::Tensor rotate(const at::Tensor& x, const Rotation& rotation, Path path);

}  // namespace bezel::ops
