#include "bezel/bridge/ops/unembed_loss.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>

#include "bezel/bridge/ops/fused.h"
#include "bezel/hooks/error.h"

namespace bezel::ops {
namespace {

struct Losses {
  at::Tensor nats;       // [row] float32
  at::Tensor gradients;  // [row d_model]: of each row's loss; undefined where not wanted
};

// What the kernel does, where there is none.
at::Tensor composed_losses(at::Tensor& raw, const at::Tensor& targets, double cap,
                           bool leaves_gradient) {
  auto capped = raw.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  if (cap != 0) capped.div_(cap).tanh_().mul_(cap);
  const auto total = capped.logsumexp(1, /*keepdim=*/true);
  const auto places = targets.unsqueeze(1);
  const auto nats = total - capped.gather(1, places);
  if (!leaves_gradient) return nats.squeeze(1);
  auto gradient = (capped - total).exp_();
  gradient.scatter_(1, places, (-nats).expm1());
  if (cap != 0) gradient.mul_(capped.div_(cap).square_().neg_().add_(1));
  raw.copy_(gradient);
  return nats.squeeze(1);
}

Losses in_chunks(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& targets,
                 double cap, bool wants_gradient, std::int64_t max_bytes) {
  const std::int64_t row_bytes = weight.size(0) * x.element_size();
  const std::int64_t n_rows = x.size(0);
  const auto n_at_once = std::max<std::int64_t>(1, std::min(max_bytes / row_bytes, n_rows));
  Losses losses = {at::empty({n_rows}, x.options().dtype(at::kFloat)), {}};
  if (wants_gradient) losses.gradients = at::empty_like(x);
  auto room = at::empty({n_at_once, weight.size(0)}, x.options());
  for (std::int64_t begin = 0; begin < n_rows; begin += n_at_once) {
    const std::int64_t n = std::min(n_at_once, n_rows - begin);
    auto raw = room.narrow(0, 0, n);
    at::mm_out(raw, x.narrow(0, begin, n), weight.t());
    const auto of_rows = targets.narrow(0, begin, n);
    losses.nats.narrow(0, begin, n)
        .copy_(raw.is_cpu() ? fused::word_losses(raw, of_rows, cap, wants_gradient)
                            : composed_losses(raw, of_rows, cap, wants_gradient));
    if (!wants_gradient) continue;
    auto gradients = losses.gradients.narrow(0, begin, n);
    at::mm_out(gradients, raw, weight);
  }
  return losses;
}

// Has the value of the nats and the gradients that were made with them.
at::Tensor with_gradients(const Losses& losses, const at::Tensor& x) {
  const auto wide = x.to(at::kFloat);
  const auto zero = ((wide - wide.detach()) * losses.gradients).sum(1);
  zero.register_hook([](const at::Tensor& gradient) {
    if (!c10::GradMode::is_enabled()) return gradient;
    throw ArgumentError(
        "a gradient of the loss's gradient was asked for (create_graph), which the chunked loss "
        "does not have; run with path=\"open\", or take the loss of the logits");
  });
  return losses.nats + zero;
}

}  // namespace

bool can_chunk_loss(const at::Tensor& x, const at::Tensor& weight) {
  const auto type = x.scalar_type();
  return (type == at::kFloat || type == at::kBFloat16) && x.numel() > 0 && weight.is_contiguous() &&
         !fused::differentiates({weight});
}

at::Tensor unembed_loss(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& targets,
                        std::optional<double> softcap, std::int64_t max_bytes) {
  const double cap = softcap.value_or(0);
  const auto rows = x.contiguous(), of_rows = targets.contiguous();
  const bool differentiates = fused::differentiates({x});
  const auto losses = [&] {
    const at::NoGradGuard values_alone;
    return in_chunks(rows.detach(), weight, of_rows, cap, differentiates, max_bytes);
  }();
  return differentiates ? with_gradients(losses, rows) : losses.nats;
}

}  // namespace bezel::ops
