// How the CPU launchers see a tensor: rows of d neighbouring elements, shared out among threads.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

namespace bezel::ops::fused {

/// x [… inner d] → [outer inner d] with d contiguous; a view where the strides allow it.
inline at::Tensor as_rows(const at::Tensor& x) {
  const auto whole = x.dim() == 1 ? x.unsqueeze(0) : x;
  const auto rows = whole.reshape({-1, whole.size(-2), whole.size(-1)});
  return rows.stride(2) == 1 ? rows : rows.contiguous();
}

/// Where row i of as_rows(x) begins, in elements.
struct RowPlaces {
  explicit RowPlaces(const at::Tensor& rows)
      : outer_stride(rows.stride(0)), inner_stride(rows.stride(1)), n_inner(rows.size(1)) {}
  std::int64_t operator()(std::int64_t i) const {
    return i / n_inner * outer_stride + i % n_inner * inner_stride;
  }
  std::int64_t outer_stride, inner_stride, n_inner;
};

/// run(begin, end) over all rows; a thread gets at least `grain_elements`.
template <class Run>
void for_rows(const at::Tensor& rows, std::int64_t grain_elements, const Run& run) {
  const auto grain = std::max<std::int64_t>(1, grain_elements / rows.size(2));
  at::parallel_for(0, rows.size(0) * rows.size(1), grain, run);
}

}  // namespace bezel::ops::fused
