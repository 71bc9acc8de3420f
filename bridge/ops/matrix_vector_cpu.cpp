// The matrix-vector product's body over all rows of the matrix, on CPU.
#include "bezel/bridge/ops/fused.h"
#include "bezel/bridge/ops/matrix_vector_kernel.h"
#include "bezel/bridge/ops/rows.h"

namespace bezel::ops::fused {
namespace {

struct RowGroups {
  const at::BFloat16 *w, *x;
  at::BFloat16* y;
  std::int64_t n, d;

  [[gnu::always_inline]] inline void operator()(std::int64_t group) const {
    std::int64_t row = group * kRowsTogether;
    if (row + kRowsTogether <= n) {
      row_products<kRowsTogether>(w + row * d, x, y + row, d);
      return;
    }
    for (; row < n; ++row) row_products<1>(w + row * d, x, y + row, d);
  }
};

}  // namespace

at::Tensor matrix_vector(const at::Tensor& weight, const at::Tensor& x) {
  const std::int64_t n = weight.size(0), d = weight.size(1);
  const auto vector = x.contiguous();
  auto shape = x.sizes().vec();
  shape.back() = n;
  auto y = at::empty(shape, x.options());
  const RowGroups groups = {.w = weight.const_data_ptr<at::BFloat16>(),
                            .x = vector.const_data_ptr<at::BFloat16>(),
                            .y = y.mutable_data_ptr<at::BFloat16>(),
                            .n = n,
                            .d = d};
  for_rows((n + kRowsTogether - 1) / kRowsTogether, kRowsTogether * d, groups);
  return y;
}

}  // namespace bezel::ops::fused
