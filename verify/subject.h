// What is verified: a loaded model, the reference it is held against, and how.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>
#include <xtensor/xarray.hpp>

#include "bezel/bridge/bridge.h"
#include "bezel/verify/bundle.h"
#include "bezel/verify/tolerances.h"

namespace bezel::verify {

struct Subject {
  std::filesystem::path folder;
  bridge::Bridge model;
  std::optional<Bundle> bundle;
  Tolerances tolerances;
  /// Called after each check with what is being done; may throw to stop.
  std::function<void(const std::string& what)> on_progress;

  at::Device device() const { return model.options().device(); }
  at::ScalarType dtype() const { return model.weights().embed.scalar_type(); }
};

/// Ids with those that stand for media replaced by their neighbours below: text alone.
at::Tensor as_text(at::Tensor ids, const bridge::ModelSpec& spec);

template <class Number>
at::Tensor to_tensor(const xt::xarray<Number>& values);
/// Floating values as float32 (exact for bfloat16).
xt::xarray<float> to_xarray(const at::Tensor& values);
xt::xarray<std::int64_t> to_whole_xarray(const at::Tensor& values);

/// The elements of `values` at these places along each axis.
template <class Number>
xt::xarray<Number> select(const xt::xarray<Number>& values,
                          const std::vector<std::vector<std::size_t>>& kept);

}  // namespace bezel::verify
