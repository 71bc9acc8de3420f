#include "bezel/hooks/cache.h"

#include "bezel/hooks/error.h"

namespace bezel::hooks {

at::Tensor ActivationCache::at(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = index_.find(name);
  if (found == index_.end()) {
    throw UnknownHookError("\"" + name + "\" is not in this cache of " +
                           std::to_string(items_.size()) +
                           " values; ask for it when the run is made (names)");
  }
  return items_[found->second].second;
}

bool ActivationCache::contains(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  return index_.contains(name);
}

std::size_t ActivationCache::size() const {
  const std::lock_guard lock(mutex_);
  return items_.size();
}

std::vector<std::pair<std::string, at::Tensor>> ActivationCache::items() const {
  const std::lock_guard lock(mutex_);
  return items_;
}

void ActivationCache::put(const std::string& name, at::Tensor value) {
  const std::lock_guard lock(mutex_);
  const auto [place, inserted] = index_.emplace(name, items_.size());
  if (inserted) {
    items_.emplace_back(name, std::move(value));
  } else {
    items_[place->second].second = std::move(value);
  }
}

}  // namespace bezel::hooks
