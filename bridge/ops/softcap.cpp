#include "bezel/bridge/ops/softcap.h"

#include <ATen/ATen.h>

#include "bezel/bridge/ops/dtype.h"

namespace bezel::ops {

at::Tensor softcap(const at::Tensor& x, double cap) {
  return (at::tanh(widened(x) / cap) * cap).to(x.scalar_type());
}

}  // namespace bezel::ops
