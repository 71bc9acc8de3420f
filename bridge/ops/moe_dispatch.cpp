#include "bezel/bridge/ops/moe_dispatch.h"

#include <ATen/ATen.h>

#include <vector>

#include "bezel/bridge/ops/linear.h"

namespace bezel::ops {

at::Tensor expert_linear(const at::Tensor& x, const at::Tensor& experts, const at::Tensor& weights,
                         Path path) {
  const auto flat = experts.reshape({-1});
  const auto order = at::argsort(flat, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const auto counts = at::bincount(flat, {}, weights.size(0)).cpu();
  const auto rows = x.reshape({-1, x.size(-1)}).index_select(0, order);
  std::vector<at::Tensor> parts;
  std::int64_t begin = 0;
  for (std::int64_t expert = 0; expert < weights.size(0); ++expert) {
    const std::int64_t n_rows = counts.const_data_ptr<std::int64_t>()[expert];
    if (n_rows == 0) continue;
    parts.push_back(ops::linear(rows.narrow(0, begin, n_rows), weights[expert], path));
    begin += n_rows;
  }
  const auto place = at::argsort(order);
  auto shape = x.sizes().vec();
  shape.back() = weights.size(1);
  return at::cat(parts).index_select(0, place).view(shape);
}

}  // namespace bezel::ops
