// Exact arithmetic for the tests of single ops: float64 by plain loops, and distances in units of
// the last place.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "bezel/bridge/ops/context.h"

namespace bezel::ops {

/// A tensor's numbers in row-major order, exactly.
inline std::vector<double> numbers(const at::Tensor& x) {
  const auto flat = x.detach().to(at::kDouble).contiguous();
  return {flat.const_data_ptr<double>(), flat.const_data_ptr<double>() + flat.numel()};
}

inline at::Tensor tensor_of(const std::vector<double>& values, at::IntArrayRef shape) {
  return at::tensor(values, at::kDouble).view(shape);
}

/// Distance between neighbouring numbers of a format with this many significant bits.
inline double unit(double x, int significant_bits) {
  if (x == 0) return 0;
  return std::ldexp(1.0, std::ilogb(x) + 1 - significant_bits);
}
inline double unit(double x, at::ScalarType type) {
  return unit(x, type == at::kBFloat16 ? 8 : type == at::kFloat ? 24 : 53);
}

/// Every number of `got` is within one unit in the last place (of got's dtype) of `want`, plus the
/// noise that the op's float32 inside may have: a few float32 roundings of `magnitude`, the size of
/// the terms that it adds.
inline void expect_one_unit(const at::Tensor& got, const at::Tensor& want,
                            const at::Tensor& magnitude, double n_roundings = 8) {
  ASSERT_EQ(got.sizes(), want.sizes());
  const auto g = numbers(got), w = numbers(want), m = numbers(magnitude.expand_as(want));
  int shown = 0;
  for (std::size_t i = 0; i < g.size() && shown < 3; ++i) {
    const double bound = unit(w[i], got.scalar_type()) + n_roundings * std::ldexp(m[i], -24);
    const bool near = std::abs(g[i] - w[i]) <= bound;
    EXPECT_TRUE(near) << "at " << i << ": got " << g[i] << ", want " << w[i] << ", apart "
                      << std::abs(g[i] - w[i]) / bound << " of what is allowed";
    shown += near ? 0 : 1;
  }
}
inline void expect_one_unit(const at::Tensor& got, const at::Tensor& want) {
  expect_one_unit(got, want, at::zeros_like(want));
}

/// Relative to the largest number wanted.
inline void expect_close(const at::Tensor& got, const at::Tensor& want, double relative) {
  ASSERT_EQ(got.sizes(), want.sizes());
  const auto far = (got.to(at::kDouble) - want).abs().max().item<double>();
  EXPECT_LE(far, relative * want.abs().max().item<double>());  // false for NaN
}

inline Settings settings_of(Path path) {
  Settings settings;
  settings.path = path;
  return settings;
}

inline const std::vector<Path> kBothPaths = {Path::kOpen, Path::kAutomatic};

}  // namespace bezel::ops
