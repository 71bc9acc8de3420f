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

// The run goes on with a tensor that nobody outside can write to: a hook may keep what it was
// given, or return what it holds.
at::Tensor owned(const at::Tensor& value) {
  const bool ours = value.use_count() == 1 && value.storage().use_count() == 1;
  return ours ? value : value.clone();
}

at::Tensor applied(const std::vector<HookFunction>& functions, at::Tensor value,
                   const HookSite& at) {
  for (const HookFunction& function : functions) {
    at::Tensor given = value.clone();  // the function may write into it
    at::Tensor result = function(given, at);
    if (!result.defined()) result = given;
    given.reset();
    result = checked(result, value, at.name);
    value = owned(result);
  }
  return value;
}

// The positions, dtype and device that the request keeps of a value; may share the value's memory.
at::Tensor part_of(const at::Tensor& value, const HookPoint& point, const Request& request) {
  at::Tensor part = value.requires_grad() ? value.detach() : value;
  for (std::size_t i = 0; request.pos_slice && i < point.axes.size(); ++i) {
    if (point.axes[i] != Axis::kPos && point.axes[i] != Axis::kQPos) continue;
    const auto dim = static_cast<std::int64_t>(i);
    const ResolvedSlice cut = resolve(*request.pos_slice, part.size(dim));
    part = part.slice(dim, cut.start, cut.stop, cut.step);
  }
  if (!request.dtype && !request.device) return part;
  const bool casts = request.dtype && part.is_floating_point();
  return part.to(request.device.value_or(part.device()),
                 casts ? *request.dtype : part.scalar_type());
}

at::Tensor own_copy(const at::Tensor& part, const at::Tensor& value) {
  if (part.is_alias_of(value)) return part.clone(at::MemoryFormat::Contiguous);
  return part.contiguous();
}

}  // namespace

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

Run::Run(std::shared_ptr<const Plan> plan, at::Tensor positions, at::Tensor key_positions, int step)
    : plan_(std::move(plan)),
      cache_(std::make_shared<ActivationCache>(plan_->recorded())),
      standings_{{{std::move(positions), std::move(key_positions)}, {}, {}}},
      step_(step) {}

at::Tensor Run::fire(SiteRow at, at::Tensor value) {
  const SitePlan& rows = plan_->site(at.site);
  const auto row = static_cast<std::size_t>(at.row);
  if (rows.edit[row]) value = edited(at, std::move(value));
  if (rows.record[row]) record(at, value);
  if (rows.watch[row]) value = watched(at, value);
  return value;
}

void Run::record(SiteRow at, const at::Tensor& value) {
  const std::size_t place = plan_->place_of(at), first = plan_->first_of(place);
  cache_->put(place, first == place ? kept(at, value) : cache_->at(first));
}

// Owned by the cache alone and by one of its values: taken as it is only where nothing else can
// write to it, and where it holds no more memory than it shows (with those beside it).
at::Tensor Run::kept(SiteRow at, const at::Tensor& value) {
  const SitePlan& rows = plan_->site(at.site);
  const auto row = static_cast<std::size_t>(at.row);
  const at::Tensor part = part_of(value, plan_->point(at), plan_->request());
  const bool whole =
      part.is_non_overlapping_and_dense() && part.storage().nbytes() == part.nbytes();
  const bool in_graph = value.requires_grad() || rows.watch[row];
  const bool only_ours =
      (whole || rows.in_place[row]) && !in_graph && at.point().type != ValueType::kInt64;
  const bool first = only_ours && taken_.insert(part.storage().unsafeGetStorageImpl()).second;
  return first || (only_ours && rows.in_place[row]) ? part : own_copy(part, value);
}

Standing Run::standing_at(SiteRow at) const {
  Standing standing = standings_[static_cast<std::size_t>(plan_->part(at))];
  const auto n_keys = plan_->n_keys(at.site);
  auto& keys = standing.key_positions;
  if (plan_->part(at) != Part::kText || !n_keys || !keys.defined()) return standing;
  keys = keys.narrow(1, keys.size(1) - *n_keys, *n_keys);
  return standing;
}

at::Tensor Run::edited(SiteRow at, at::Tensor value) {
  const Standing standing = standing_at(at);
  const HookSite site{
      plan_->name(at), plan_->where(at.site).layer, plan_->point(at),      Direction::kForward,
      step_,           standing.positions,          standing.key_positions};
  const bool without_autograd = without_autograd_.has_value();
  without_autograd_.reset();  // a hook sees torch as it always is
  value = applied(plan_->functions(at, Direction::kForward), std::move(value), site);
  if (without_autograd && !value.requires_grad()) leave_autograd_out();
  return value;
}

at::Tensor Run::watched(SiteRow at, const at::Tensor& value) const {
  // A node of its own, so that other uses of the same tensor stay out of this gradient; a leaf
  // where nothing before it requires one.
  at::Tensor own = value.requires_grad() ? at::alias(value) : value.detach().requires_grad_(true);
  const auto row = static_cast<std::size_t>(at.row);
  const bool records = plan_->request().gradients && plan_->site(at.site).record[row];
  own.register_hook([at, records, functions = plan_->functions(at, Direction::kBackward),
                     plan = plan_, cache = cache_, standing = standing_at(at),
                     step = step_](const at::Tensor& gradient) {
    const std::string& name = plan->name(at);
    const HookSite site{
        name, plan->where(at.site).layer, plan->point(at),       Direction::kBackward,
        step, standing.positions,         standing.key_positions};
    at::Tensor used = applied(functions, gradient, site);
    if (records) {
      const at::Tensor part = part_of(used, site.point, plan->request());
      cache->put(name + "_grad", own_copy(part, used));
    }
    return used;
  });
  return own;
}

}  // namespace bezel::hooks
