// A request compiled for one model and one shape of input: all that can be refused is refused here,
// before the run.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bezel/hooks/cache.h"
#include "bezel/hooks/inventory.h"
#include "bezel/hooks/request.h"

namespace bezel::hooks {

/// What a run will compute, as far as a plan needs to know.
struct RunShape {
  AxisSizes input{};          // batch, pos, q_pos, k_pos
  std::int64_t n_logits = 0;  // positions that reach the unembedding
  at::ScalarType dtype = at::kFloat;
  int first_layer = 0;                 // start_at_layer
  int stop_layer = 0;                  // stop_at_layer, or the number of layers
  RowSet silent_model_rows{};          // rows of site 0 that this run does not compute
  std::vector<std::int64_t> n_keys{};  // of the model and its text blocks, where they differ from
                                       // input's k_pos; or empty
  bool has_images = false, has_audio = false;  // the encoders run
  bool operator==(const RunShape&) const = default;
};

/// A value that the cache will hold.
struct PlannedValue {
  std::string name;
  std::vector<std::int64_t> shape;
  at::ScalarType dtype;
  std::int64_t n_bytes;
  std::string shares_with;  // the earlier name of the same value, whose copy it is; empty: its own
};

/// What happens to the values of one site.
struct SitePlan {
  RowSet live;                 // any of the below
  RowSet record, edit, watch;  // watch: gradients are recorded or edited
  RowSet in_place;             // recorded with all that share their memory: no copy is needed

  /// True when a hook edits one of these values, or a gradient of one is asked for.
  bool changes_any(std::initializer_list<HookId> ids) const {
    return std::ranges::any_of(ids, [&](HookId id) { return edit[id.row()] || watch[id.row()]; });
  }
};

class Plan {
 public:
  /// Throws UnknownHookError, HookNotApplicableError, HookNeverFiredError, ArgumentError.
  static std::shared_ptr<const Plan> compile(const Request& request,
                                             std::shared_ptr<const Inventory> inventory,
                                             const RunShape& shape);

  const SitePlan& site(int index) const { return sites_[index]; }
  const std::string& name(SiteRow at) const { return inventory_->name(at); }
  const HookPoint& point(SiteRow at) const { return inventory_->point(at); }
  const Site& where(int index) const { return inventory_->site(index); }
  Part part(SiteRow at) const { return inventory_->part(at); }
  const Request& request() const { return request_; }
  /// Functions to apply at a value, in order.
  std::vector<HookFunction> functions(SiteRow at, Direction direction) const;
  /// The names of the values to record, in forward order.
  const std::shared_ptr<const NameList>& recorded() const { return recorded_; }
  /// The place of a recorded value among them.
  std::size_t place_of(SiteRow at) const { return places_[at.site][at.row]; }
  /// The place of the value that holds the same tensor under an earlier name, so that one copy
  /// serves; its own where there is none.
  std::size_t first_of(std::size_t place) const { return first_of_[place]; }
  /// The last block whose values are asked for; -1: none. Sees the names only, not the logits.
  int last_layer() const { return last_layer_; }
  /// True when a gradient is recorded or edited anywhere.
  bool watches_gradients() const { return watches_gradients_; }
  /// Keys that a site sees, where the run's shape says so for each.
  std::optional<std::int64_t> n_keys(int site) const {
    const bool is_given = site < static_cast<int>(n_keys_.size());
    return is_given ? std::optional(n_keys_[site]) : std::nullopt;
  }
  /// True when a value behind the last block is asked for.
  bool needs_head() const { return needs_head_; }
  const std::vector<PlannedValue>& values() const { return values_; }
  std::int64_t cache_bytes() const { return cache_bytes_; }
  /// Throws CacheTooLargeError when the cache would not fit in free_bytes.
  void check_fits(std::int64_t free_bytes) const;

 private:
  Plan(const Request& request, std::shared_ptr<const Inventory> inventory, const RunShape& shape);
  std::vector<SiteRow> firing(const Selector& selector, const RunShape& shape) const;
  bool fires(SiteRow at, const RunShape& shape) const;
  void mark(SiteRow at, RowSet SitePlan::*set);
  SiteRow origin(SiteRow at) const;
  PlannedValue planned(SiteRow at, const RunShape& shape) const;
  void plan_values(const RunShape& shape);
  void plan_places();

  Request request_;
  std::shared_ptr<const Inventory> inventory_;
  std::vector<SitePlan> sites_;
  std::map<std::pair<int, int>, std::vector<std::size_t>> edits_at_;  // indices into request_.edits
  std::vector<std::array<std::uint32_t, kNHookPoints>> places_;       // by site and row
  std::vector<std::size_t> first_of_;                                 // by place
  std::shared_ptr<const NameList> recorded_;
  std::vector<PlannedValue> values_;
  std::vector<std::int64_t> n_keys_;
  std::int64_t cache_bytes_ = 0;
  int last_layer_ = -1;
  bool merges_media_ = false;
  bool needs_head_ = false;
  bool watches_gradients_ = false;
};

/// The dtype in which a row's value is computed when the model runs in model_type.
at::ScalarType dtype_of(const HookPoint& point, at::ScalarType model_type);

/// start, stop and step within an axis of this length; never empty (throws ArgumentError).
struct ResolvedSlice {
  std::int64_t start, stop, step;
  std::int64_t length() const { return (stop - start + step - 1) / step; }
};
ResolvedSlice resolve(const PosSlice& slice, std::int64_t length);

}  // namespace bezel::hooks
