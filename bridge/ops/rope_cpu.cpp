// RoPE's body over all heads and positions, on CPU.
#include "bezel/bridge/ops/fused.h"
#include "bezel/bridge/ops/rope_kernel.h"
#include "bezel/bridge/ops/rows.h"

namespace bezel::ops::fused {
namespace {

template <class T>
struct RopeRows {
  const T* x;
  RowPlaces places;
  const float* cos;
  const float* sin;
  std::int64_t n_angles;  // rows of cos and sin: positions, or batch times positions
  T* out;
  std::int64_t n_pos, n_heads, d, n_axes;

  [[gnu::always_inline]] inline void operator()(std::int64_t i) const {
    const std::int64_t head = i % n_heads, place = i / n_heads;
    const std::int64_t row = (place / n_pos * n_heads + head) * n_pos + place % n_pos;
    const std::int64_t angles = place % n_angles * (d / 2);
    const std::int64_t width = d / n_axes;
    for (std::int64_t axis = 0; axis < n_axes; ++axis) {
      const std::int64_t part = axis * width, turn = angles + part / 2;
      rotate_row(x + places(i) + part, cos + turn, sin + turn, out + row * d + part, width);
    }
  }
};

}  // namespace

at::Tensor rotate(const at::Tensor& x, const Rotation& rotation) {
  // The positions of a head next to each other, as attention multiplies them.
  auto out = at::empty({x.size(0), x.size(2), x.size(1), x.size(3)}, x.options());
  const auto heads = as_rows(x);
  const auto cos = rotation.cos.contiguous(), sin = rotation.sin.contiguous();
  with_element(x.scalar_type(), [&](auto element) {
    using T = decltype(element);
    const RopeRows<T> rows = {.x = heads.const_data_ptr<T>(),
                              .places = RowPlaces(heads),
                              .cos = cos.const_data_ptr<float>(),
                              .sin = sin.const_data_ptr<float>(),
                              .n_angles = cos.size(0) * cos.size(1),
                              .out = out.mutable_data_ptr<T>(),
                              .n_pos = x.size(1),
                              .n_heads = x.size(2),
                              .d = x.size(3),
                              .n_axes = rotation.n_axes};
    for_rows(heads.size(0) * heads.size(1), rows.d, rows);
  });
  return out.transpose(1, 2);
}

}  // namespace bezel::ops::fused
