// The plan of the last run, kept for one like it: a loop of equal requests compiles once.
#pragma once

#include <memory>
#include <mutex>

#include "bezel/hooks/plan.h"

namespace bezel::hooks {

class PlanShelf {
 public:
  /// A plan for this request; requests with functions in them are compiled each time. Throws as
  /// Plan::compile does.
  std::shared_ptr<const Plan> plan(const Request& request,
                                   const std::shared_ptr<const Inventory>& inventory,
                                   const RunShape& shape);

 private:
  std::mutex mutex_;
  std::shared_ptr<const Plan> plan_;
  RunShape shape_;
};

}  // namespace bezel::hooks
