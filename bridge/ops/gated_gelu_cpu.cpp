// The gated GELU's body over all rows, on CPU.
#include "bezel/bridge/ops/fused.h"
#include "bezel/bridge/ops/gated_gelu_kernel.h"
#include "bezel/bridge/ops/rows.h"

namespace bezel::ops::fused {
namespace {

template <class T>
struct GatedGeluRows {
  const T* gate;
  RowPlaces gate_places;
  const T* up;
  RowPlaces up_places;
  T* out;
  std::int64_t d;

  [[gnu::always_inline]] inline void operator()(std::int64_t i) const {
    gated_gelu_row(gate + gate_places(i), up + up_places(i), out + i * d, d);
  }
};

}  // namespace

at::Tensor gated_gelu(const at::Tensor& gate, const at::Tensor& up) {
  auto out = at::empty(gate.sizes(), gate.options());
  const auto gates = as_rows(gate), ups = as_rows(up);
  with_element(gate.scalar_type(), [&](auto element) {
    using T = decltype(element);
    const GatedGeluRows<T> rows = {.gate = gates.const_data_ptr<T>(),
                                   .gate_places = RowPlaces(gates),
                                   .up = ups.const_data_ptr<T>(),
                                   .up_places = RowPlaces(ups),
                                   .out = out.mutable_data_ptr<T>(),
                                   .d = gates.size(2)};
    for_rows(gates.size(0) * gates.size(1), rows.d, rows);
  });
  return out;
}

}  // namespace bezel::ops::fused
