// RoPE's body over all heads and positions, on CPU.
#include "bezel/bridge/ops/context.h"
#include "bezel/bridge/ops/fused.h"
#include "bezel/bridge/ops/rope_kernel.h"
#include "bezel/bridge/ops/rows.h"

namespace bezel::ops::fused {
namespace {

constexpr std::int64_t kGrainElements = 32'768;  // about 5 µs of work

template <class T>
struct Turn {
  const T* x;
  RowPlaces places;
  const float* cos;
  const float* sin;
  std::int64_t n_angles;  // rows of cos and sin: positions, or batch times positions
  T* out;
  std::int64_t n_heads, d;
};

template <class T>
[[gnu::always_inline]] inline void run(const Turn<T>& turn, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t angles = i / turn.n_heads % turn.n_angles * (turn.d / 2);
    rotate_row(turn.x + turn.places(i), turn.cos + angles, turn.sin + angles, turn.out + i * turn.d,
               turn.d);
  }
}

BEZEL_VECTOR_CLONES
void run_rows(const Turn<float>& turn, std::int64_t begin, std::int64_t end) {
  run(turn, begin, end);
}

BEZEL_VECTOR_CLONES
void run_rows(const Turn<at::BFloat16>& turn, std::int64_t begin, std::int64_t end) {
  run(turn, begin, end);
}

template <class T>
void launch(const at::Tensor& rows, const Rotation& rotation, at::Tensor& out) {
  const Turn<T> turn = {.x = rows.const_data_ptr<T>(),
                        .places = RowPlaces(rows),
                        .cos = rotation.cos.const_data_ptr<float>(),
                        .sin = rotation.sin.const_data_ptr<float>(),
                        .n_angles = rotation.cos.size(0) * rotation.cos.size(1),
                        .out = out.mutable_data_ptr<T>(),
                        .n_heads = out.size(2),
                        .d = out.size(3)};
  for_rows(rows, kGrainElements,
           [&](std::int64_t begin, std::int64_t end) { run_rows(turn, begin, end); });
}

}  // namespace

at::Tensor rotate(const at::Tensor& x, const Rotation& rotation) {
  auto out = at::empty(x.sizes(), x.options());
  const auto rows = as_rows(x);
  const Rotation whole = {rotation.cos.contiguous(), rotation.sin.contiguous()};
  if (x.scalar_type() == at::kFloat) {
    launch<float>(rows, whole, out);
  } else {
    launch<at::BFloat16>(rows, whole, out);
  }
  return out;
}

}  // namespace bezel::ops::fused
