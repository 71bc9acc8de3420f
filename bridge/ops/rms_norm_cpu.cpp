// RMSNorm's body over all rows, on CPU.
#include "bezel/bridge/ops/context.h"
#include "bezel/bridge/ops/fused.h"
#include "bezel/bridge/ops/rms_norm_kernel.h"
#include "bezel/bridge/ops/rows.h"

namespace bezel::ops::fused {
namespace {

constexpr std::int64_t kGrainElements = 32'768;  // about 5 µs of work

/// The first row, and where the others are; results are contiguous.
template <class T>
struct Norm {
  RmsNormRow<T> first;
  RowPlaces places;
  std::int64_t d;
  double eps;
};

template <class T>
[[gnu::always_inline]] inline void run(const Norm<T>& norm, std::int64_t begin, std::int64_t end) {
  const RmsNormRow<T>& first = norm.first;
  for (std::int64_t i = begin; i < end; ++i) {
    rms_norm_row<T>({.x = first.x + norm.places(i),
                     .gain = first.gain,
                     .out = first.out + i * norm.d,
                     .scale = first.scale ? first.scale + i : nullptr,
                     .normalized = first.normalized ? first.normalized + i * norm.d : nullptr},
                    norm.d, norm.eps);
  }
}

BEZEL_VECTOR_CLONES
void run_rows(const Norm<float>& norm, std::int64_t begin, std::int64_t end) {
  run(norm, begin, end);
}

BEZEL_VECTOR_CLONES
void run_rows(const Norm<at::BFloat16>& norm, std::int64_t begin, std::int64_t end) {
  run(norm, begin, end);
}

template <class T>
void launch(const at::Tensor& rows, const at::Tensor& gain, double eps, NormValues& values) {
  const bool inside = values.scale.defined();
  const Norm<T> norm = {
      .first = {.x = rows.const_data_ptr<T>(),
                .gain = gain.defined() ? gain.const_data_ptr<T>() : nullptr,
                .out = values.out.mutable_data_ptr<T>(),
                .scale = inside ? values.scale.mutable_data_ptr<float>() : nullptr,
                .normalized = inside ? values.normalized.mutable_data_ptr<float>() : nullptr},
      .places = RowPlaces(rows),
      .d = rows.size(2),
      .eps = eps};
  for_rows(rows, kGrainElements,
           [&](std::int64_t begin, std::int64_t end) { run_rows(norm, begin, end); });
}

}  // namespace

NormValues rms_norm(const at::Tensor& x, const at::Tensor& gain, double eps, NormOutputs outputs) {
  const auto wide = x.options().dtype(at::kFloat);
  NormValues values{at::empty(x.sizes(), x.options()), {}, {}};
  if (outputs == NormOutputs::kAll) {
    auto one = x.sizes().vec();
    one.back() = 1;
    values.scale = at::empty(one, wide);
    values.normalized = at::empty(x.sizes(), wide);
  }
  const auto rows = as_rows(x);
  const auto whole_gain = gain.defined() ? gain.contiguous() : gain;
  if (x.scalar_type() == at::kFloat) {
    launch<float>(rows, whole_gain, eps, values);
  } else {
    launch<at::BFloat16>(rows, whole_gain, eps, values);
  }
  return values;
}

}  // namespace bezel::ops::fused
