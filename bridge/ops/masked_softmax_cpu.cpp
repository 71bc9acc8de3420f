// Mask and softmax over all queries, on CPU.
#include "bezel/bridge/ops/fused.h"
#include "bezel/bridge/ops/masked_softmax_kernel.h"
#include "bezel/bridge/ops/rows.h"

namespace bezel::ops::fused {
namespace {

template <class T>
struct MaskedSoftmaxRows {
  T* scores;
  const T* mask;
  T* pattern;
  std::int64_t n_queries, n_per_mask;  // rows of one head; rows that share one mask
  std::int64_t d;

  [[gnu::always_inline]] inline void operator()(std::int64_t i) const {
    const std::int64_t mask_row = i / n_per_mask * n_queries + i % n_queries;
    masked_softmax_row(scores + i * d, mask + mask_row * d, pattern + i * d, d);
  }
};

}  // namespace

AttentionValues masked_softmax(at::Tensor dots, const at::Tensor& mask) {
  const AttentionValues values{dots.contiguous(), at::empty(dots.sizes(), dots.options())};
  const auto whole_mask = mask.contiguous();
  const auto n_rows = dots.size(0) * dots.size(1) * dots.size(2);
  with_element(dots.scalar_type(), [&](auto element) {
    using T = decltype(element);
    const MaskedSoftmaxRows<T> rows = {.scores = values.scores.mutable_data_ptr<T>(),
                                       .mask = whole_mask.const_data_ptr<T>(),
                                       .pattern = values.pattern.mutable_data_ptr<T>(),
                                       .n_queries = dots.size(2),
                                       .n_per_mask = n_rows / whole_mask.size(0),
                                       .d = dots.size(3)};
    for_rows(n_rows, rows.d, rows);
  });
  return values;
}

}  // namespace bezel::ops::fused
