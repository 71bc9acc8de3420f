// RoPE's body over all heads and positions, on CPU.
#include "bezel/bridge/ops/fused.h"
#include "bezel/bridge/ops/rope_kernel.h"
#include "bezel/bridge/ops/rows.h"

namespace bezel::ops::fused {
namespace {

constexpr std::int64_t kGrainElements = 32'768;  // about 5 µs of work

template <class T>
struct RopeRows {
  const T* x;
  RowPlaces places;
  const float* cos;
  const float* sin;
  std::int64_t n_angles;  // rows of cos and sin: positions, or batch times positions
  T* out;
  std::int64_t n_heads, d;

  [[gnu::always_inline]] inline void operator()(std::int64_t i) const {
    const std::int64_t angles = i / n_heads % n_angles * (d / 2);
    rotate_row(x + places(i), cos + angles, sin + angles, out + i * d, d);
  }
};

}  // namespace

at::Tensor rotate(const at::Tensor& x, const Rotation& rotation) {
  auto out = at::empty(x.sizes(), x.options());
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
                              .n_heads = out.size(2),
                              .d = out.size(3)};
    for_rows(heads.size(0) * heads.size(1), rows.d, kGrainElements, rows);
  });
  return out;
}

}  // namespace bezel::ops::fused
