#include "bezel/bridge/ops/rope.h"

#include <ATen/ATen.h>

#include <vector>

#include "bezel/bridge/ops/dtype.h"
#include "bezel/bridge/ops/fused.h"

namespace bezel::ops {

Rotation make_rotation(const at::Tensor& positions, const RopeSpec& spec, std::int64_t d_head,
                       at::ScalarType model_type) {
  // On the CPU, as the reference does: a device's power may differ in its last bit, which turns by
  // a hundredth of a radian at position 100,000.
  const auto options = at::TensorOptions(wide_type(model_type));
  const auto exponents = at::arange(0, 2 * spec.n_rotated_pairs, 2, options) / d_head;
  const auto turning = at::pow(spec.theta, exponents).reciprocal();
  const auto still = at::zeros({d_head / 2 - spec.n_rotated_pairs}, options);
  const auto angles = positions.to(options.dtype()).unsqueeze(-1) *
                      at::cat({turning, still}).to(positions.device());
  return {angles.cos().unsqueeze(2), angles.sin().unsqueeze(2)};
}

Rotation make_axial_rotation(const at::Tensor& positions, const RopeSpec& spec, std::int64_t d_head,
                             at::ScalarType model_type) {
  const RopeSpec half = {.theta = spec.theta, .n_rotated_pairs = d_head / 4};
  std::vector<at::Tensor> cos, sin;
  for (const at::Tensor& coordinate : positions.unbind(-1)) {
    const auto rotation = make_rotation(coordinate, half, d_head / 2, model_type);
    cos.push_back(rotation.cos);
    sin.push_back(rotation.sin);
  }
  return {at::cat(cos, -1), at::cat(sin, -1), 2};
}

at::Tensor rotate(const at::Tensor& x, const Rotation& rotation, Path path) {
  if (path != Path::kOpen && fused::can_run({x})) return fused::rotate(x, rotation);
  if (rotation.n_axes == 2) {
    const auto halves = x.chunk(2, -1), cos = rotation.cos.chunk(2, -1),
               sin = rotation.sin.chunk(2, -1);
    return at::cat(
        {rotate(halves[0], {cos[0], sin[0]}, path), rotate(halves[1], {cos[1], sin[1]}, path)}, -1);
  }
  const auto halves = widened(x).chunk(2, -1);
  const auto& first = halves[0];
  const auto& second = halves[1];
  return at::cat({first * rotation.cos - second * rotation.sin,
                  second * rotation.cos + first * rotation.sin},
                 -1)
      .to(x.scalar_type());
}

}  // namespace bezel::ops
