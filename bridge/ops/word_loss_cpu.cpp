// The cross entropy over rows of words, on CPU.
#include "bezel/bridge/ops/fused.h"
#include "bezel/bridge/ops/rows.h"
#include "bezel/bridge/ops/word_loss_kernel.h"

namespace bezel::ops::fused {
namespace {

template <class T>
struct LossRows {
  T* raw;
  const std::int64_t* targets;
  float* losses;
  std::int64_t d;
  Softcap softcap;
  bool leaves_gradient;

  [[gnu::always_inline]] inline void operator()(std::int64_t i) const {
    T* row = raw + i * d;
    const float total = log_sum_exp_row(row, d, softcap);
    losses[i] = total - softcap(static_cast<float>(row[targets[i]]));
    if (leaves_gradient) loss_gradient_row(row, d, targets[i], total, softcap);
  }
};

}  // namespace

at::Tensor word_losses(at::Tensor& raw, const at::Tensor& targets, double cap,
                       bool leaves_gradient) {
  auto losses = at::empty(targets.sizes(), raw.options().dtype(at::kFloat));
  with_element(raw.scalar_type(), [&](auto element) {
    using T = decltype(element);
    const LossRows<T> rows = {.raw = raw.mutable_data_ptr<T>(),
                              .targets = targets.const_data_ptr<std::int64_t>(),
                              .losses = losses.mutable_data_ptr<float>(),
                              .d = raw.size(1),
                              .softcap = {static_cast<float>(cap)},
                              .leaves_gradient = leaves_gradient};
    for_rows(raw.size(0), rows.d, rows);
  });
  return losses;
}

}  // namespace bezel::ops::fused
