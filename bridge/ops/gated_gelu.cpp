#include "bezel/bridge/ops/gated_gelu.h"

#include <ATen/ATen.h>

#include "bezel/bridge/ops/dtype.h"
#include "bezel/bridge/ops/fused.h"

namespace bezel::ops {

at::Tensor gated_gelu(const at::Tensor& gate, const at::Tensor& up, Path path) {
  if (path != Path::kOpen && fused::can_run({gate, up})) return fused::gated_gelu(gate, up);
  // One memory layout: gelu rounds differently where a row ends amid a vector register, and a hook
  // that returns its value unchanged hands back a contiguous copy.
  auto y = widened(gate).contiguous();
  y = at::gelu(y, "tanh");  // one step a statement: each frees what the one before it made
  y = y * up;
  return y.to(gate.scalar_type());
}

}  // namespace bezel::ops
