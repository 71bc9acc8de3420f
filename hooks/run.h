// One run: the plan it follows and what it has gathered so far.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>

#include "bezel/hooks/cache.h"
#include "bezel/hooks/plan.h"

namespace bezel::hooks {

/// A hook's answer as a run can use it: the value's own shape, dtype and device. Throws
/// HookResultError for any other.
at::Tensor checked(const at::Tensor& result, const at::Tensor& value, const std::string& name);

/// Where the values of one part of a model stand, as functions are told (HookSite).
struct Standing {
  at::Tensor positions, key_positions;
};

class Run {
 public:
  /// positions [batch pos] and key_positions [batch k_pos], int64, -1 at padding. A site that the
  /// plan's shape gives fewer keys sees the last ones.
  Run(std::shared_ptr<const Plan> plan, at::Tensor positions, at::Tensor key_positions,
      int step = 0);

  /// Says where the values of an encoder stand, before any of them is computed.
  void place(Part part, Standing standing) {
    standings_[static_cast<std::size_t>(part)] = std::move(standing);
  }

  /// Leaves the operators' autograd layer out on this thread, until the run ends or a hook brings
  /// in a gradient: for runs in which nothing carries one.
  void leave_autograd_out() { without_autograd_.emplace(); }

  bool live(int site, std::size_t row) const { return plan_->site(site).live[row]; }
  const SitePlan& site(int index) const { return plan_->site(index); }
  const Plan& plan() const { return *plan_; }
  /// Applies edits, then records, then watches the gradient of a live value.
  at::Tensor fire(SiteRow at, at::Tensor value);
  const std::shared_ptr<ActivationCache>& cache() const { return cache_; }
  /// True when the cache took the memory of this value as it is, so that a write to one shows in
  /// the other.
  bool cache_shares(const at::Tensor& value) const {
    return taken_.contains(value.storage().unsafeGetStorageImpl());
  }

 private:
  Standing standing_at(SiteRow at) const;
  at::Tensor edited(SiteRow at, at::Tensor value);
  void record(SiteRow at, const at::Tensor& value);
  at::Tensor kept(SiteRow at, const at::Tensor& value);
  at::Tensor watched(SiteRow at, const at::Tensor& value) const;

  std::shared_ptr<const Plan> plan_;
  std::shared_ptr<ActivationCache> cache_;
  std::unordered_set<const c10::StorageImpl*> taken_;  // storages that the cache holds as they are
  std::array<Standing, kNParts> standings_;
  int step_;
  std::optional<at::AutoDispatchBelowADInplaceOrView> without_autograd_;
};

}  // namespace bezel::hooks
