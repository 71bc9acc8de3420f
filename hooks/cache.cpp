#include "bezel/hooks/cache.h"

#include "bezel/hooks/error.h"

namespace bezel::hooks {

NameList::NameList(std::vector<std::string> names) : names_(std::move(names)) {
  for (std::size_t i = 0; i < names_.size(); ++i) places_.emplace(names_[i], i);
}

std::optional<std::size_t> NameList::find(const std::string& name) const {
  const auto found = places_.find(name);
  return found == places_.end() ? std::nullopt : std::optional(found->second);
}

std::size_t NameList::place_of(const std::string& name) {
  const auto [found, is_new] = places_.emplace(name, names_.size());
  if (is_new) names_.push_back(name);
  return found->second;
}

ActivationCache::ActivationCache(std::shared_ptr<const NameList> expected)
    : expected_(std::move(expected)), values_(expected_->size()) {}

const at::Tensor* ActivationCache::find(const std::string& name) const {
  auto place = expected_->find(name);
  if (!place) {
    place = others_.find(name);
    if (place) *place += expected_->size();
  }
  return place && values_[*place].defined() ? &values_[*place] : nullptr;
}

at::Tensor ActivationCache::at(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const at::Tensor* found = find(name);
  if (found == nullptr) {
    throw UnknownHookError("\"" + name + "\" is not in this cache of " + std::to_string(n_values_) +
                           " values; ask for it when the run is made (names)");
  }
  return *found;
}

at::Tensor ActivationCache::at(std::size_t place) const {
  const std::lock_guard lock(mutex_);
  return values_[place];
}

bool ActivationCache::contains(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  return find(name) != nullptr;
}

std::size_t ActivationCache::size() const {
  const std::lock_guard lock(mutex_);
  return n_values_;
}

std::vector<std::pair<std::string, at::Tensor>> ActivationCache::items() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::pair<std::string, at::Tensor>> items;
  items.reserve(n_values_);
  const std::size_t n_expected = expected_->size();
  for (std::size_t i = 0; i < values_.size(); ++i) {
    if (!values_[i].defined()) continue;
    items.emplace_back(i < n_expected ? expected_->name(i) : others_.name(i - n_expected),
                       values_[i]);
  }
  return items;
}

void ActivationCache::put(const std::string& name, at::Tensor value) {
  const std::unique_lock lock(mutex_);
  auto place = expected_->find(name);
  if (!place) place = expected_->size() + others_.place_of(name);
  if (*place == values_.size()) values_.emplace_back();
  n_values_ += values_[*place].defined() ? 0 : 1;
  values_[*place] = std::move(value);
}

void ActivationCache::put(std::size_t place, at::Tensor value) {
  const std::lock_guard lock(mutex_);
  n_values_ += values_[place].defined() ? 0 : 1;
  values_[place] = std::move(value);
}

}  // namespace bezel::hooks
