// RMSNorm's body over all rows, on CPU.
#include "bezel/bridge/ops/fused.h"
#include "bezel/bridge/ops/rms_norm_kernel.h"
#include "bezel/bridge/ops/rows.h"

namespace bezel::ops::fused {
namespace {

constexpr std::int64_t kGrainElements = 32'768;  // about 5 µs of work

template <class T>
struct RmsNormRows {
  RmsNormRow<T> first;
  RowPlaces places;
  std::int64_t d;
  double eps;

  [[gnu::always_inline]] inline void operator()(std::int64_t i) const {
    rms_norm_row<T>({.x = first.x + places(i),
                     .gain = first.gain,
                     .out = first.out + i * d,
                     .scale = first.scale ? first.scale + i : nullptr,
                     .normalized = first.normalized ? first.normalized + i * d : nullptr},
                    d, eps);
  }
};

}  // namespace

NormValues rms_norm(const at::Tensor& x, const at::Tensor& gain, double eps, NormOutputs outputs) {
  const auto wide = x.options().dtype(at::kFloat);
  const bool inside = outputs == NormOutputs::kAll;
  NormValues values{at::empty(x.sizes(), x.options()), {}, {}};
  if (inside) {
    auto one = x.sizes().vec();
    one.back() = 1;
    values.scale = at::empty(one, wide);
    values.normalized = at::empty(x.sizes(), wide);
  }
  const auto vectors = as_rows(x);
  const auto whole_gain = gain.defined() ? gain.contiguous() : gain;
  with_element(x.scalar_type(), [&](auto element) {
    using T = decltype(element);
    const RmsNormRows<T> rows = {
        .first = {.x = vectors.const_data_ptr<T>(),
                  .gain = gain.defined() ? whole_gain.const_data_ptr<T>() : nullptr,
                  .out = values.out.mutable_data_ptr<T>(),
                  .scale = inside ? values.scale.mutable_data_ptr<float>() : nullptr,
                  .normalized = inside ? values.normalized.mutable_data_ptr<float>() : nullptr},
        .places = RowPlaces(vectors),
        .d = vectors.size(2),
        .eps = eps};
    for_rows(vectors.size(0) * vectors.size(1), rows.d, kGrainElements, rows);
  });
  return values;
}

}  // namespace bezel::ops::fused
