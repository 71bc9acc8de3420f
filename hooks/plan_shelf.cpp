#include "bezel/hooks/plan_shelf.h"

#include <algorithm>

namespace bezel::hooks {
namespace {

bool has_no_function(const Request& request) {
  return request.edits.empty() &&
         std::ranges::all_of(request.names, [](const Selector& name) { return name.is_text(); });
}

bool equal(const Request& a, const Request& b) {
  const auto text = [](const Selector& name) { return name.text(); };
  return a.gradients == b.gradients && a.pos_slice == b.pos_slice && a.dtype == b.dtype &&
         a.device == b.device && std::ranges::equal(a.names, b.names, {}, text, text);
}

}  // namespace

std::shared_ptr<const Plan> PlanShelf::plan(const Request& request,
                                            const std::shared_ptr<const Inventory>& inventory,
                                            const RunShape& shape) {
  if (!has_no_function(request)) return Plan::compile(request, inventory, shape);
  const std::lock_guard lock(mutex_);
  if (!plan_ || shape_ != shape || !equal(plan_->request(), request)) {
    plan_ = Plan::compile(request, inventory, shape);
    shape_ = shape;
  }
  return plan_;
}

}  // namespace bezel::hooks
