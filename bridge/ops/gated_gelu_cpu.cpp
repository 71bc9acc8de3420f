// The gated GELU's body over all rows, on CPU.
#include "bezel/bridge/ops/context.h"
#include "bezel/bridge/ops/fused.h"
#include "bezel/bridge/ops/gated_gelu_kernel.h"
#include "bezel/bridge/ops/rows.h"

namespace bezel::ops::fused {
namespace {

constexpr std::int64_t kGrainElements = 8'192;  // about 5 µs of work

template <class T>
struct Gate {
  const T* gate;
  RowPlaces gate_places;
  const T* up;
  RowPlaces up_places;
  T* out;
  std::int64_t d;
};

template <class T>
[[gnu::always_inline]] inline void run(const Gate<T>& g, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    gated_gelu_row(g.gate + g.gate_places(i), g.up + g.up_places(i), g.out + i * g.d, g.d);
  }
}

BEZEL_VECTOR_CLONES
void run_rows(const Gate<float>& gate, std::int64_t begin, std::int64_t end) {
  run(gate, begin, end);
}

BEZEL_VECTOR_CLONES
void run_rows(const Gate<at::BFloat16>& gate, std::int64_t begin, std::int64_t end) {
  run(gate, begin, end);
}

template <class T>
void launch(const at::Tensor& gate, const at::Tensor& up, at::Tensor& out) {
  const Gate<T> rows = {.gate = gate.const_data_ptr<T>(),
                        .gate_places = RowPlaces(gate),
                        .up = up.const_data_ptr<T>(),
                        .up_places = RowPlaces(up),
                        .out = out.mutable_data_ptr<T>(),
                        .d = gate.size(2)};
  for_rows(gate, kGrainElements,
           [&](std::int64_t begin, std::int64_t end) { run_rows(rows, begin, end); });
}

}  // namespace

at::Tensor gated_gelu(const at::Tensor& gate, const at::Tensor& up) {
  auto out = at::empty(gate.sizes(), gate.options());
  if (gate.scalar_type() == at::kFloat) {
    launch<float>(as_rows(gate), as_rows(up), out);
  } else {
    launch<at::BFloat16>(as_rows(gate), as_rows(up), out);
  }
  return out;
}

}  // namespace bezel::ops::fused
