// A tap names a value where it is born: auto z = tap("attn.hook_z", …). Dead, it costs a branch and
// a bit test; live, it edits, records and watches gradients. Two words, by value.
#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <utility>

#include "bezel/hooks/hook_points.h"
#include "bezel/hooks/run.h"

namespace bezel::hooks {

class Tap {
 public:
  Tap() = default;  // dead everywhere
  Tap(Run& run, int site) : run_(&run), site_(site) {}

  at::Tensor operator()(HookId id, at::Tensor value) const {
    if (!live(id)) [[likely]]
      return value;
    return run_->fire({site_, static_cast<int>(id.row())}, std::move(value));
  }

  bool live(HookId id) const { return run_ != nullptr && run_->live(site_, id.row()); }

  /// True when a fused kernel that hides these values cannot be used.
  bool any_live(std::initializer_list<HookId> ids) const {
    for (const HookId id : ids) {
      if (live(id)) return true;
    }
    return false;
  }
  bool any_edits(std::initializer_list<HookId> ids) const {
    for (const HookId id : ids) {
      if (run_ != nullptr && run_->site(site_).edit[id.row()]) return true;
    }
    return false;
  }
  /// True when a hook edits one of these values, or a gradient of one is asked for.
  bool any_changes(std::initializer_list<HookId> ids) const {
    return run_ != nullptr && run_->site(site_).changes_any(ids);
  }

 private:
  Run* run_ = nullptr;
  int site_ = 0;
};

}  // namespace bezel::hooks
