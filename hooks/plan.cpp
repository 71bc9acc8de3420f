#include "bezel/hooks/plan.h"

#include <c10/core/ScalarType.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "bezel/hooks/error.h"

namespace bezel::hooks {
namespace {

constexpr HookId kFirstHeadRow("ln_final.hook_scale");

bool is_floating(SiteRow at) { return at.point().type != ValueType::kInt64; }

std::string gibibytes(std::int64_t n_bytes) {
  const auto hundredths = n_bytes * 100 / (std::int64_t{1} << 30);
  const std::string cents = std::to_string(hundredths % 100);
  return std::to_string(hundredths / 100) + "." + (cents.size() < 2 ? "0" : "") + cents + " GiB";
}

}  // namespace

at::ScalarType dtype_of(const HookPoint& point, at::ScalarType model_type) {
  if (point.type == ValueType::kInt64) return at::kLong;
  if (point.type == ValueType::kWide) return model_type == at::kDouble ? at::kDouble : at::kFloat;
  return model_type;
}

ResolvedSlice resolve(const PosSlice& slice, std::int64_t length) {
  const auto within = [&](std::int64_t place) {
    return std::clamp(place < 0 ? place + length : place, std::int64_t{0}, length);
  };
  const ResolvedSlice resolved{within(slice.start.value_or(0)), within(slice.stop.value_or(length)),
                               slice.step};
  if (slice.step < 1 || resolved.start >= resolved.stop) {
    throw ArgumentError("pos_slice keeps no position of " + std::to_string(length) +
                        "; it needs a step of at least 1 and a start before its stop");
  }
  return resolved;
}

std::shared_ptr<const Plan> Plan::compile(const Request& request, const Inventory& inventory,
                                          const RunShape& shape) {
  return std::shared_ptr<const Plan>(new Plan(request, inventory, shape));
}

Plan::Plan(const Request& request, const Inventory& inventory, const RunShape& shape)
    : request_(request), inventory_(&inventory), sites_(inventory.sites().size()) {
  for (const Selector& selector : request_.names) {
    for (const SiteRow at : firing(selector, shape)) {
      mark(at, &SitePlan::record);
      if (request_.gradients && is_floating(at)) mark(at, &SitePlan::watch);
    }
  }
  for (std::size_t i = 0; i < request_.edits.size(); ++i) {
    const Edit& edit = request_.edits[i];
    const bool forward = edit.direction == Direction::kForward;
    std::vector<SiteRow> rows = firing(edit.at, shape);
    if (!forward) std::erase_if(rows, [](SiteRow at) { return !is_floating(at); });
    if (rows.empty()) {
      throw HookNotApplicableError(edit.at.text() + " holds integers and has no gradient");
    }
    for (const SiteRow at : rows) {
      mark(at, forward ? &SitePlan::edit : &SitePlan::watch);
      edits_at_[{at.site, at.row}].push_back(i);
    }
  }
  plan_values(shape);
}

bool Plan::fires(SiteRow at, const RunShape& shape) const {
  const auto layer = place(at.site).layer;
  if (layer) return *layer >= shape.first_layer && *layer < shape.stop_layer;
  return !shape.silent_model_rows[static_cast<std::size_t>(at.row)];
}

std::vector<SiteRow> Plan::firing(const Selector& selector, const RunShape& shape) const {
  std::vector<SiteRow> rows = selector.expand(*inventory_);
  std::erase_if(rows, [&](SiteRow at) { return !fires(at, shape); });
  if (rows.empty()) {
    throw HookNeverFiredError(
        selector.text() + " cannot fire in this run, which computes blocks " +
        std::to_string(shape.first_layer) + " to " + std::to_string(shape.stop_layer - 1) +
        " from the given input; change start_at_layer, stop_at_layer or the input, "
        "or leave the hook out");
  }
  return rows;
}

void Plan::mark(SiteRow at, RowSet SitePlan::*set) {
  (sites_[at.site].*set).set(static_cast<std::size_t>(at.row));
  sites_[at.site].live.set(static_cast<std::size_t>(at.row));
  if (set == &SitePlan::watch) watches_gradients_ = true;
  if (const auto layer = place(at.site).layer) {
    last_layer_ = std::max(last_layer_, *layer);
  } else if (at.row >= static_cast<int>(kFirstHeadRow.row())) {
    needs_head_ = true;
  }
}

std::vector<HookFunction> Plan::functions(SiteRow at, Direction direction) const {
  std::vector<HookFunction> chosen;
  const auto found = edits_at_.find({at.site, at.row});
  if (found == edits_at_.end()) return chosen;
  for (const std::size_t i : found->second) {
    if (request_.edits[i].direction == direction) chosen.push_back(request_.edits[i].function);
  }
  return chosen;
}

// Where the tensor at a row comes from: the first of the rows that hand it on to each other.
SiteRow Plan::origin(SiteRow at) const {
  while (!sites_[at.site].edit[static_cast<std::size_t>(at.row)]) {
    const auto& handed_on = place(at.site).handed_on;
    const auto from = handed_on.find(at.row);
    if (from == handed_on.end()) break;
    at = from->second;
  }
  return at;
}

std::optional<SiteRow> Plan::same_as(SiteRow at) const {
  const auto found = same_as_.find({at.site, at.row});
  return found == same_as_.end() ? std::nullopt : std::optional(found->second);
}

PlannedValue Plan::planned(SiteRow at, const RunShape& shape) const {
  const HookPoint& point = at.point();
  PlannedValue value{name(at), shape_of(point, place(at.site), shape.input),
                     dtype_of(point, shape.dtype), 0, ""};
  const bool behind_head = point.axes[point.axes.size() - 1] == Axis::kDVocab;
  for (std::size_t i = 0; i < point.axes.size(); ++i) {
    if (behind_head && point.axes[i] == Axis::kPos) value.shape[i] = shape.n_logits;
    const bool cut = point.axes[i] == Axis::kPos || point.axes[i] == Axis::kQPos;
    if (cut && request_.pos_slice) {
      value.shape[i] = resolve(*request_.pos_slice, value.shape[i]).length();
    }
  }
  if (request_.dtype && is_floating(at)) value.dtype = *request_.dtype;
  value.n_bytes = static_cast<std::int64_t>(c10::elementSize(value.dtype));
  for (const std::int64_t size : value.shape) value.n_bytes *= size;
  return value;
}

void Plan::plan_values(const RunShape& shape) {
  // By origin, and by shape: pos_slice cuts a donor's keys and not those of its sharers.
  std::map<std::tuple<int, int, std::vector<std::int64_t>>, SiteRow> first_of;
  for (const SiteRow at : inventory_->rows()) {
    if (!sites_[at.site].record[static_cast<std::size_t>(at.row)]) continue;
    PlannedValue value = planned(at, shape);
    const SiteRow from = origin(at);
    const auto [first, is_first] =
        first_of.emplace(std::tuple{from.site, from.row, value.shape}, at);
    if (!is_first) {
      same_as_.emplace(std::pair{at.site, at.row}, first->second);
      value.shares_with = name(first->second);
    }
    const int n_gradients = request_.gradients && is_floating(at) ? 1 : 0;
    cache_bytes_ += value.n_bytes * ((is_first ? 1 : 0) + n_gradients);
    values_.push_back(std::move(value));
  }
}

void Plan::check_fits(std::int64_t free_bytes) const {
  if (cache_bytes_ <= free_bytes) return;
  const auto largest =
      std::max_element(values_.begin(), values_.end(),
                       [](const auto& a, const auto& b) { return a.n_bytes < b.n_bytes; });
  throw CacheTooLargeError(
      "the cache would take " + gibibytes(cache_bytes_) + " for " + std::to_string(values_.size()) +
      " values, and " + gibibytes(free_bytes) + " are free; the largest is \"" + largest->name +
      "\" with " + gibibytes(largest->n_bytes) +
      ". Cheaper: name only what is needed (names_filter), keep some positions (pos_slice), store "
      "bfloat16 (dtype), or keep the cache on another device (device)");
}

}  // namespace bezel::hooks
