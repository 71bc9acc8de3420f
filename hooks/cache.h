// The values that a run recorded, by full name, in the order in which they were computed.
#pragma once

#include <ATen/core/Tensor.h>

#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace bezel::hooks {

class ActivationCache {
 public:
  /// n_expected: how many values will come, if that is known.
  explicit ActivationCache(std::size_t n_expected = 0) {
    items_.reserve(n_expected);
    index_.reserve(n_expected);
  }
  /// Throws UnknownHookError when the run did not record it.
  at::Tensor at(const std::string& name) const;
  bool contains(const std::string& name) const;
  std::size_t size() const;
  /// In forward order; gradients ("…_grad") follow once backward has run.
  std::vector<std::pair<std::string, at::Tensor>> items() const;

  /// A value recorded twice under one name keeps the later one. Safe from several threads, because
  /// autograd may deliver gradients on its own.
  void put(const std::string& name, at::Tensor value);

 private:
  mutable std::mutex mutex_;
  std::vector<std::pair<std::string, at::Tensor>> items_;
  std::unordered_map<std::string, std::size_t> index_;
};

}  // namespace bezel::hooks
