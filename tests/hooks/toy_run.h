// A run through the toy model whose values the test makes up.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <set>
#include <string>
#include <utility>

#include "bezel/hooks/run.h"
#include "tests/hooks/toy.h"

namespace bezel::hooks {

class ToyRun {
 public:
  explicit ToyRun(const Request& request)
      : plan_(Plan::compile(request, shared_toy(), toy_shape())),
        run_(plan_, at::arange(5).expand({2, 5}), at::arange(5).expand({2, 5}) + 10, /*step=*/3) {}

  /// Passes a value through its tap, as the model would.
  at::Tensor fire(const std::string& name, at::Tensor value) {
    const SiteRow at = toy().resolve(name);
    if (!run_.live(at.site, static_cast<std::size_t>(at.row))) return value;
    return run_.fire(at, std::move(value));
  }
  const ActivationCache& cache() const { return *run_.cache(); }
  at::Tensor cached(const std::string& name) const { return cache().at(name); }
  const Plan& plan() const { return *plan_; }
  Run& run() { return run_; }

  /// Bytes of memory that the cache holds, each storage once.
  std::int64_t cache_bytes() const {
    std::set<const void*> seen;
    std::int64_t n_bytes = 0;
    for (const auto& [name, value] : cache().items()) {
      if (!seen.insert(value.storage().unsafeGetStorageImpl()).second) continue;
      n_bytes += static_cast<std::int64_t>(value.storage().nbytes());
    }
    return n_bytes;
  }

 private:
  std::shared_ptr<const Plan> plan_;
  Run run_;
};

/// A value of a row's shape in the toy run.
inline at::Tensor toy_value(const std::string& name, at::ScalarType type = at::kFloat) {
  const SiteRow at = toy().resolve(name);
  const auto shape = shape_of(at.point(), toy().site(at.site), toy_shape().input);
  if (at.point().type == ValueType::kInt64) return at::randint(0, 5, shape, at::kLong);
  return at::randn(shape, type);
}

}  // namespace bezel::hooks
