// RMSNorm's body over all rows, on CPU.
#include "bezel/bridge/ops/fused.h"
#include "bezel/bridge/ops/rms_norm_kernel.h"
#include "bezel/bridge/ops/rows.h"

namespace bezel::ops::fused {
namespace {

template <class T>
struct RmsNormRows {
  RmsNormRow<T> first;
  RowPlaces places;
  std::int64_t d;
  double eps;

  [[gnu::always_inline]] inline void operator()(std::int64_t i) const {
    const auto at = [&](auto* pointer, std::int64_t place) {
      return pointer == nullptr ? nullptr : pointer + place;
    };
    rms_norm_row<T>({.x = first.x + places(i),
                     .gain = first.gain,
                     .stream = at(first.stream, i * d),
                     .out = at(first.out, i * d),
                     .joined = at(first.joined, i * d),
                     .scale = at(first.scale, i),
                     .normalized = at(first.normalized, i * d)},
                    d, eps);
  }
};

template <class T>
const T* read(const at::Tensor& x) {
  return x.defined() ? x.const_data_ptr<T>() : nullptr;
}
template <class T>
T* write(at::Tensor& x) {
  return x.defined() ? x.mutable_data_ptr<T>() : nullptr;
}

NormValues room_for(const NormInputs& inputs, NormOutputs outputs) {
  const at::Tensor& x = inputs.x;
  const auto wide = x.options().dtype(at::kFloat);
  NormValues values;
  if (outputs.out || !inputs.stream.defined()) values.out = at::empty(x.sizes(), x.options());
  if (inputs.stream.defined()) values.joined = at::empty(x.sizes(), x.options());
  if (!outputs.inside) return values;
  auto one = x.sizes().vec();
  one.back() = 1;
  values.scale = at::empty(one, wide);
  values.normalized = at::empty(x.sizes(), wide);
  return values;
}

at::Tensor whole(const at::Tensor& x) { return x.defined() ? x.contiguous() : x; }

}  // namespace

NormValues rms_norm(const NormInputs& inputs, double eps, NormOutputs outputs) {
  NormValues values = room_for(inputs, outputs);
  const auto vectors = as_rows(inputs.x), gain = whole(inputs.gain), stream = whole(inputs.stream);
  with_element(inputs.x.scalar_type(), [&](auto element) {
    using T = decltype(element);
    const RmsNormRows<T> rows = {.first = {.x = vectors.const_data_ptr<T>(),
                                           .gain = read<T>(gain),
                                           .stream = read<T>(stream),
                                           .out = write<T>(values.out),
                                           .joined = write<T>(values.joined),
                                           .scale = write<float>(values.scale),
                                           .normalized = write<float>(values.normalized)},
                                 .places = RowPlaces(vectors),
                                 .d = vectors.size(2),
                                 .eps = eps};
    for_rows(vectors.size(0) * vectors.size(1), rows.d, rows);
  });
  return values;
}

}  // namespace bezel::ops::fused
