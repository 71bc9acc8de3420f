#include "bezel/bridge/ops/linear.h"

#include <ATen/ATen.h>

#include "bezel/bridge/ops/fused.h"

namespace bezel::ops {
namespace {

// The library reads a float32 matrix at the speed of memory, and a bfloat16 one at 60 % of it.
bool can_fuse(const at::Tensor& x, const at::Tensor& weight, Path path) {
  return path != Path::kOpen && x.numel() == x.size(-1) && x.scalar_type() == at::kBFloat16 &&
         weight.is_contiguous() && fused::can_run({x, weight});
}

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, Path path) {
  if (can_fuse(x, weight, path)) return fused::matrix_vector(weight, x);
  // One matrix product by name: at::linear takes four dispatches to find it.
  auto shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return at::_unsafe_view(at::mm(x.reshape({-1, x.size(-1)}), weight.t()), shape);
}

at::Tensor Clip::clamped(const at::Tensor& x, std::int64_t lowest) const {
  if (!bounds_.defined()) return x;
  const auto low = bounds_.select(0, lowest), high = bounds_.select(0, lowest + 1);
  // By numbers where reading them waits for nothing: a clamp by tensors does not vectorise.
  if (bounds_.is_cpu() && !bounds_.requires_grad()) return at::clamp(x, low.item(), high.item());
  return at::clamp(x, low, high);
}

Clip clip_of(const at::Tensor& bounds, std::int64_t i) {
  return Clip(bounds.defined() ? bounds.narrow(0, 4 * i, 4) : at::Tensor());
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const Clip& clip, Path path) {
  return clip.leaving(linear(clip.entering(x), weight, path));
}

}  // namespace bezel::ops
