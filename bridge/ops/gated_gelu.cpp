#include "bezel/bridge/ops/gated_gelu.h"

#include <ATen/ATen.h>

#include "bezel/bridge/ops/dtype.h"

namespace bezel::ops {

at::Tensor gated_gelu(const at::Tensor& gate, const at::Tensor& up) {
  return (at::gelu(widened(gate), "tanh") * up).to(gate.scalar_type());
}

}  // namespace bezel::ops
