#include "bezel/bridge/ops/softcap.h"

#include <ATen/ATen.h>

#include "bezel/bridge/ops/dtype.h"

namespace bezel::ops {

at::Tensor softcap(const at::Tensor& x, double cap) {
  // The logits are the largest value of a run: work in place on a copy of our own.
  auto y = x.to(wide_type(x.scalar_type()), /*non_blocking=*/false, /*copy=*/true);
  y.div_(cap).tanh_();
  y = y.requires_grad() ? y * cap : y.mul_(cap);  // tanh keeps its result for backward
  return y.to(x.scalar_type());
}

}  // namespace bezel::ops
