#include "bezel/bridge/ops/rms_norm.h"

#include <ATen/ATen.h>

#include <optional>

#include "bezel/bridge/ops/dtype.h"
#include "bezel/bridge/ops/fused.h"

namespace bezel::ops {
namespace {

at::Tensor root_mean_square(const at::Tensor& wide, double eps) {
  return (wide.pow(2).mean(-1, /*keepdim=*/true) + eps).sqrt();
}

at::Tensor with_gain(const at::Tensor& normalized, const at::Tensor& gain) {
  return gain.defined() ? normalized * gain : normalized;
}

// The norm where nothing inside it is named or asked for.
at::Tensor closed(const at::Tensor& x, const at::Tensor& gain, const Settings& settings) {
  if (fused::can_run({x, gain})) {
    return fused::rms_norm({x, gain, {}}, settings.norm_eps, {}).out;
  }
  const std::optional<at::Tensor> weight = gain.defined() ? std::optional(gain) : std::nullopt;
  return at::rms_norm(x, {x.size(-1)}, weight, settings.norm_eps);
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& gain, const Settings& settings,
                    const NormHooks& names, hooks::Tap tap) {
  const bool open = settings.path == Path::kOpen;
  if (!open && !tap.any_live({names.scale, names.normalized})) return closed(x, gain, settings);
  if (!open && !tap.any_changes({names.scale, names.normalized}) && fused::can_run({x, gain})) {
    const auto values = fused::rms_norm({x, gain, {}}, settings.norm_eps, {.inside = true});
    tap(names.scale, values.scale);
    tap(names.normalized, values.normalized);
    return values.out;
  }
  const auto wide = widened(x);
  const auto scale = tap(names.scale, root_mean_square(wide, settings.norm_eps));
  const auto normalized = tap(names.normalized, wide / scale);
  return with_gain(normalized, gain).to(x.scalar_type());
}

at::Tensor join(const at::Tensor& stream, const at::Tensor& branch, const at::Tensor& gain,
                const Settings& settings, const JoinHooks& names, hooks::Tap tap) {
  const auto& [norm, out] = names;
  const bool changes = tap.any_changes({norm.scale, norm.normalized, out});
  if (settings.path == Path::kOpen || changes || !fused::can_run({branch, gain, stream})) {
    return stream + tap(out, rms_norm(branch, gain, settings, norm, tap));
  }
  const fused::NormOutputs outputs = {.inside = tap.any_live({norm.scale, norm.normalized}),
                                      .out = tap.live(out)};
  const auto values = fused::rms_norm({branch, gain, stream}, settings.norm_eps, outputs);
  tap(norm.scale, values.scale);
  tap(norm.normalized, values.normalized);
  tap(out, values.out);
  return values.joined;
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& gain, const Settings& settings) {
  if (settings.path != Path::kOpen) return closed(x, gain, settings);
  const auto wide = widened(x);
  return with_gain(wide / root_mean_square(wide, settings.norm_eps), gain).to(x.scalar_type());
}

}  // namespace bezel::ops
