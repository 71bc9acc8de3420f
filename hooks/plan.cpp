#include "bezel/hooks/plan.h"

#include <c10/core/ScalarType.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "bezel/hooks/error.h"

namespace bezel::hooks {
namespace {

constexpr HookId kFirstHeadRow("ln_final.hook_scale");
constexpr HookId kMergedRow("hook_full_embed");

const RowSet kOnDemandRows = [] {
  RowSet rows;
  for (std::size_t i = 0; i < kNHookPoints; ++i) {
    rows[i] = kHookPoints[i].access == Access::kOnDemand;
  }
  return rows;
}();

bool is_floating(SiteRow at) { return at.point().type != ValueType::kInt64; }

// "images, blocks 0 to 9"
std::string computed(const RunShape& shape) {
  std::string parts;
  const auto add = [&](const std::string& part) { parts += (parts.empty() ? "" : ", ") + part; };
  if (shape.has_images) add("images");
  if (shape.has_audio) add("audio");
  if (shape.stop_layer > shape.first_layer) {
    add("blocks " + std::to_string(shape.first_layer) + " to " +
        std::to_string(shape.stop_layer - 1));
  }
  return parts.empty() ? "no block" : parts;
}

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

std::shared_ptr<const Plan> Plan::compile(const Request& request,
                                          std::shared_ptr<const Inventory> inventory,
                                          const RunShape& shape) {
  return std::shared_ptr<const Plan>(new Plan(request, std::move(inventory), shape));
}

Plan::Plan(const Request& request, std::shared_ptr<const Inventory> inventory,
           const RunShape& shape)
    : request_(request),
      inventory_(std::move(inventory)),
      sites_(inventory_->sites().size()),
      places_(inventory_->sites().size()),
      n_keys_(shape.n_keys),
      merges_media_(shape.has_images || shape.has_audio) {
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
  plan_places();
  plan_values(shape);
}

bool Plan::fires(SiteRow at, const RunShape& shape) const {
  const Site& site = where(at.site);
  if (site.part == Part::kVision) return shape.has_images;
  if (site.part == Part::kAudio) return shape.has_audio;
  if (site.layer) return *site.layer >= shape.first_layer && *site.layer < shape.stop_layer;
  return !shape.silent_model_rows[static_cast<std::size_t>(at.row)];
}

std::vector<SiteRow> Plan::firing(const Selector& selector, const RunShape& shape) const {
  std::vector<SiteRow> rows = selector.expand(*inventory_);
  std::erase_if(rows, [&](SiteRow at) { return !fires(at, shape); });
  if (rows.empty()) {
    throw HookNeverFiredError(selector.text() + " cannot fire in this run, which computes " +
                              computed(shape) +
                              " from the given input; change start_at_layer, stop_at_layer or the "
                              "input, or leave the hook out");
  }
  return rows;
}

void Plan::mark(SiteRow at, RowSet SitePlan::*set) {
  (sites_[at.site].*set).set(static_cast<std::size_t>(at.row));
  sites_[at.site].live.set(static_cast<std::size_t>(at.row));
  if (set == &SitePlan::watch) watches_gradients_ = true;
  if (!where(at.site).is_text()) return;  // the encoders run before the blocks
  if (const auto layer = where(at.site).layer) {
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
    const auto& handed_on = where(at.site).handed_on;
    const auto from = handed_on.find(at.row);
    if (from == handed_on.end()) break;
    const bool is_merged = at.site == 0 && at.row == static_cast<int>(kMergedRow.row());
    if (is_merged && merges_media_) break;
    at = from->second;
  }
  return at;
}

PlannedValue Plan::planned(SiteRow at, const RunShape& shape) const {
  const HookPoint& point = this->point(at);
  PlannedValue value{name(at), shape_of(point, where(at.site), shape.input),
                     dtype_of(point, shape.dtype), 0, ""};
  const bool behind_head = point.axes[point.axes.size() - 1] == Axis::kDVocab;
  for (std::size_t i = 0; i < point.axes.size(); ++i) {
    if (behind_head && point.axes[i] == Axis::kPos) value.shape[i] = shape.n_logits;
    if (point.axes[i] == Axis::kKPos && n_keys(at.site)) value.shape[i] = *n_keys(at.site);
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
  std::map<std::tuple<int, int, std::vector<std::int64_t>>, std::size_t> first_of;
  std::vector<std::string> names;
  for (const SiteRow at : inventory_->rows()) {
    if (!sites_[at.site].record[static_cast<std::size_t>(at.row)]) continue;
    PlannedValue value = planned(at, shape);
    const SiteRow from = origin(at);
    const std::size_t place = values_.size();
    const auto [first, is_first] =
        first_of.emplace(std::tuple{from.site, from.row, value.shape}, place);
    if (!is_first) value.shares_with = names[first->second];
    const auto whole = where(at.site).slice_of.find(at.row);
    const bool is_slice = whole != where(at.site).slice_of.end() &&
                          sites_[at.site].in_place[static_cast<std::size_t>(at.row)];
    if (is_slice) value.shares_with = name(whole->second);
    places_[at.site][at.row] = static_cast<std::uint32_t>(place);
    first_of_.push_back(first->second);
    names.push_back(value.name);
    const int n_gradients = request_.gradients && is_floating(at) ? 1 : 0;
    cache_bytes_ += value.n_bytes * ((value.shares_with.empty() ? 1 : 0) + n_gradients);
    values_.push_back(std::move(value));
  }
  recorded_ = std::make_shared<const NameList>(std::move(names));
}

// A cache that holds all parts of a tensor, or a tensor and its slices, needs no copies of them.
void Plan::plan_places() {
  if (request_.pos_slice || request_.dtype || request_.device) return;
  const auto as_computed = [&](SiteRow at) {
    const SitePlan& rows = sites_[at.site];
    const auto row = static_cast<std::size_t>(at.row);
    return rows.record[row] && !rows.edit[row] && !rows.watch[row];
  };
  for (std::size_t i = 0; i < sites_.size(); ++i) {
    const int site = static_cast<int>(i);
    for (const auto& [row, whole] : where(site).slice_of) {
      if (!as_computed({site, row}) || !sites_[whole.site].record[whole.row]) continue;
      sites_[i].in_place.set(static_cast<std::size_t>(row));
    }
    if ((sites_[i].edit & kOnDemandRows).any()) continue;  // a part may come from elsewhere then
    for (const RowSet& parts : where(site).side_by_side) {
      const SitePlan& rows = sites_[i];
      if ((parts & rows.record & ~rows.edit & ~rows.watch) == parts) sites_[i].in_place |= parts;
    }
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
