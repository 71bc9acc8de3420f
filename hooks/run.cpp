#include "bezel/hooks/run.h"

#include <ATen/ATen.h>

#include <sstream>
#include <utility>

#include "bezel/hooks/error.h"

namespace bezel::hooks {
namespace {

std::string describe(const at::Tensor& value) {
  std::ostringstream text;
  text << value.scalar_type() << " " << value.sizes() << " on " << value.device();
  return text.str();
}

// A hook's answer, as the run can use it: the value's own shape, dtype and device.
at::Tensor checked(const at::Tensor& result, const at::Tensor& value, const std::string& name) {
  const bool fits = result.sizes() == value.sizes() && result.device() == value.device() &&
                    result.layout() == value.layout() &&
                    c10::canCast(result.scalar_type(), value.scalar_type());
  if (!fits) {
    throw HookResultError(
        "the hook at \"" + name + "\" returned " + describe(result) + "; the value there is " +
        describe(value) +
        ". Return the same shape on the same device in a castable dtype, or None");
  }
  return result.to(value.scalar_type());
}

at::Tensor applied(const std::vector<HookFunction>& functions, at::Tensor value,
                   const HookSite& at) {
  for (const HookFunction& function : functions) {
    const at::Tensor given = value.clone();  // the function may write into it
    const at::Tensor result = function(given, at);
    value = result.defined() ? checked(result, value, at.name) : checked(given, value, at.name);
  }
  return value;
}

}  // namespace

Run::Run(std::shared_ptr<const Plan> plan, at::Tensor positions, at::Tensor key_positions, int step)
    : plan_(std::move(plan)),
      cache_(std::make_shared<ActivationCache>()),
      positions_(std::move(positions)),
      key_positions_(std::move(key_positions)),
      step_(step) {}

at::Tensor Run::fire(SiteRow at, at::Tensor value) {
  const SitePlan& rows = plan_->site(at.site);
  const auto row = static_cast<std::size_t>(at.row);
  if (rows.edit[row]) value = edited(at, std::move(value));
  if (rows.record[row]) cache_->put(plan_->name(at), kept(at.point(), value));
  if (rows.watch[row]) value = watched(at, value);
  return value;
}

at::Tensor Run::edited(SiteRow at, at::Tensor value) const {
  const HookSite site{plan_->name(at), plan_->place(at.site).layer,
                      at.point(),      Direction::kForward,
                      step_,           positions_,
                      key_positions_};
  return applied(plan_->functions(at, Direction::kForward), std::move(value), site);
}

at::Tensor Run::watched(SiteRow at, const at::Tensor& value) const {
  if (!value.requires_grad()) {
    throw HookNeverFiredError("\"" + plan_->name(at) +
                              "\" has no gradient in this run: nothing before it requires one, or "
                              "gradients are switched off (torch.no_grad)");
  }
  // A node of its own: other uses of the same tensor stay out of this gradient.
  at::Tensor own = at::alias(value);
  const auto row = static_cast<std::size_t>(at.row);
  const bool records = plan_->request().gradients && plan_->site(at.site).record[row];
  // Backward may run when the model is gone: the closure owns all that it uses.
  own.register_hook([name = plan_->name(at), layer = plan_->place(at.site).layer, row,
                     functions = plan_->functions(at, Direction::kBackward), records,
                     cache = cache_, positions = positions_, key_positions = key_positions_,
                     step = step_](const at::Tensor& gradient) {
    const HookSite site{name, layer,     kHookPoints[row], Direction::kBackward,
                        step, positions, key_positions};
    at::Tensor used = applied(functions, gradient, site);
    if (records) cache->put(name + "_grad", used.detach().clone());
    return used;
  });
  return own;
}

// Owned by the cache alone: shared only where nothing else can write to it or holds more memory.
at::Tensor Run::kept(const HookPoint& point, const at::Tensor& value) const {
  const Request& request = plan_->request();
  at::Tensor part = value.detach();
  if (request.pos_slice) {
    for (std::size_t i = 0; i < point.axes.size(); ++i) {
      if (point.axes[i] != Axis::kPos && point.axes[i] != Axis::kQPos) continue;
      const auto dim = static_cast<std::int64_t>(i);
      const ResolvedSlice cut = resolve(*request.pos_slice, part.size(dim));
      part = part.slice(dim, cut.start, cut.stop, cut.step);
    }
  }
  auto options = part.options();
  if (request.dtype && part.is_floating_point()) options = options.dtype(*request.dtype);
  if (request.device) options = options.device(*request.device);
  const bool converts = options.dtype() != part.dtype() || options.device() != part.device();
  if (converts) return part.to(options, /*non_blocking=*/false, /*copy=*/true).contiguous();
  const bool whole = part.is_contiguous() && part.storage().nbytes() == part.nbytes();
  const bool only_ours = whole && !value.requires_grad() && point.type != ValueType::kInt64;
  return only_ours ? part : part.clone(at::MemoryFormat::Contiguous);
}

}  // namespace bezel::hooks
