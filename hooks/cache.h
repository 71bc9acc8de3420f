// The values that a run recorded, by full name.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace bezel::hooks {

/// Names by place and places by name; made once, and shared by the caches of all runs of a plan.
class NameList {
 public:
  NameList() = default;
  explicit NameList(std::vector<std::string> names);
  std::size_t size() const { return names_.size(); }
  const std::string& name(std::size_t place) const { return names_[place]; }
  std::optional<std::size_t> find(const std::string& name) const;
  /// The place of a name, which is new at the end if need be.
  std::size_t place_of(const std::string& name);

 private:
  std::vector<std::string> names_;
  std::unordered_map<std::string, std::size_t> places_;
};

class ActivationCache {
 public:
  ActivationCache() : ActivationCache(std::make_shared<NameList>()) {}
  /// For the values of these names, in this order; others follow them.
  explicit ActivationCache(std::shared_ptr<const NameList> expected);
  /// Throws UnknownHookError when the run did not record it.
  at::Tensor at(const std::string& name) const;
  bool contains(const std::string& name) const;
  std::size_t size() const;
  /// In forward order; gradients ("…_grad") follow once backward has run.
  std::vector<std::pair<std::string, at::Tensor>> items() const;

  /// A value recorded twice under one name keeps the later one. Safe from several threads, because
  /// autograd may deliver gradients on its own.
  void put(const std::string& name, at::Tensor value);
  /// The same for an expected name, by its place among them.
  void put(std::size_t place, at::Tensor value);
  at::Tensor at(std::size_t place) const;

 private:
  const at::Tensor* find(const std::string& name) const;

  mutable std::mutex mutex_;
  std::shared_ptr<const NameList> expected_;
  NameList others_;
  std::vector<at::Tensor> values_;  // of the expected names, then of the others; undefined: not yet
  std::size_t n_values_ = 0;
};

}  // namespace bezel::hooks
