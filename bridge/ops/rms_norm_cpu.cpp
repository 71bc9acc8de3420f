// RMSNorm's body over all rows, on CPU.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include "bezel/bridge/ops/context.h"
#include "bezel/bridge/ops/rms_norm_fused.h"
#include "bezel/bridge/ops/rms_norm_kernel.h"

namespace bezel::ops::fused {
namespace {

constexpr std::int64_t kGrainElements = 32'768;  // as ATen's own elementwise kernels

/// All rows of x as [outer inner d]; results are contiguous.
template <class T>
struct Rows {
  RmsNormRow<T> first;
  std::int64_t outer_stride, inner_stride, n_inner, d;
  double eps;
};

template <class T>
[[gnu::always_inline]] inline void run(const Rows<T>& rows, std::int64_t begin, std::int64_t end) {
  const RmsNormRow<T>& first = rows.first;
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t offset =
        i / rows.n_inner * rows.outer_stride + i % rows.n_inner * rows.inner_stride;
    rms_norm_row<T>({.x = first.x + offset,
                     .gain = first.gain,
                     .out = first.out + i * rows.d,
                     .scale = first.scale ? first.scale + i : nullptr,
                     .normalized = first.normalized ? first.normalized + i * rows.d : nullptr},
                    rows.d, rows.eps);
  }
}

BEZEL_VECTOR_CLONES
void run_rows(const Rows<float>& rows, std::int64_t begin, std::int64_t end) {
  run(rows, begin, end);
}

BEZEL_VECTOR_CLONES
void run_rows(const Rows<at::BFloat16>& rows, std::int64_t begin, std::int64_t end) {
  run(rows, begin, end);
}

template <class T>
void launch(const at::Tensor& x, const at::Tensor& gain, double eps, NormValues& values) {
  const bool inside = values.scale.defined();
  const Rows<T> rows = {
      .first = {.x = x.const_data_ptr<T>(),
                .gain = gain.defined() ? gain.const_data_ptr<T>() : nullptr,
                .out = values.out.mutable_data_ptr<T>(),
                .scale = inside ? values.scale.mutable_data_ptr<float>() : nullptr,
                .normalized = inside ? values.normalized.mutable_data_ptr<float>() : nullptr},
      .outer_stride = x.stride(0),
      .inner_stride = x.stride(1),
      .n_inner = x.size(1),
      .d = x.size(2),
      .eps = eps};
  const std::int64_t grain = std::max<std::int64_t>(1, kGrainElements / rows.d);
  at::parallel_for(0, x.size(0) * x.size(1), grain,
                   [&](std::int64_t begin, std::int64_t end) { run_rows(rows, begin, end); });
}

// [… inner d] → [outer inner d]; a view where the leading axes allow it.
at::Tensor as_rows(const at::Tensor& x) {
  const auto whole = x.dim() == 1 ? x.unsqueeze(0) : x;
  const auto rows = whole.reshape({-1, whole.size(-2), whole.size(-1)});
  return rows.stride(2) == 1 ? rows : rows.contiguous();
}

}  // namespace

bool can_rms_norm(const at::Tensor& x, const at::Tensor& gain) {
  const auto type = x.scalar_type();
  const bool differentiates = c10::GradMode::is_enabled() &&
                              (x.requires_grad() || (gain.defined() && gain.requires_grad()));
  return x.is_cpu() && (type == at::kFloat || type == at::kBFloat16) && !differentiates &&
         x.numel() > 0 && (!gain.defined() || (gain.scalar_type() == type && gain.is_contiguous()));
}

NormValues rms_norm(const at::Tensor& x, const at::Tensor& gain, double eps, NormOutputs outputs) {
  NormValues values{
      at::empty(x.sizes(), x.options().memory_format(at::MemoryFormat::Contiguous)), {}, {}};
  if (outputs == NormOutputs::kAll) {
    auto one = x.sizes().vec();
    one.back() = 1;
    values.scale = at::empty(one, x.options().dtype(at::kFloat));
    values.normalized = at::empty(x.sizes(), x.options().dtype(at::kFloat));
  }
  const auto rows = as_rows(x);
  if (x.scalar_type() == at::kFloat) {
    launch<float>(rows, gain, eps, values);
  } else {
    launch<at::BFloat16>(rows, gain, eps, values);
  }
  return values;
}

}  // namespace bezel::ops::fused
