// How the CPU kernels walk over a tensor: rows of d neighbouring elements, shared out among
// threads.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

#include "bezel/bridge/ops/context.h"

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

/// row(i) for every i, compiled for each kind of vector unit: row's operator() must be inlined.
template <class Row>
BEZEL_VECTOR_CLONES void run_rows(const Row& row, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) row(i);
}

/// row(i) for the n_rows rows of d elements each; a thread gets as many elements as torch's own
/// ops give to one, at least.
template <class Row>
void for_rows(std::int64_t n_rows, std::int64_t d, const Row& row) {
  const auto grain = std::max<std::int64_t>(1, at::internal::GRAIN_SIZE / d);
  at::parallel_for(0, n_rows, grain,
                   [&](std::int64_t begin, std::int64_t end) { run_rows(row, begin, end); });
}

/// launch(float()) or launch(at::BFloat16()): the types that the kernels know.
template <class Launch>
void with_element(at::ScalarType type, const Launch& launch) {
  type == at::kFloat ? launch(float()) : launch(at::BFloat16());
}

}  // namespace bezel::ops::fused
