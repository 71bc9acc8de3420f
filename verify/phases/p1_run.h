// A run of which every value is had as its consumer gets it.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "bezel/bridge/bridge.h"

namespace bezel::verify {

/// What a run takes at these names instead of its own values.
using GivenValues = std::map<std::string, at::Tensor>;

/// What of a value is held, where all of it would be too much.
using Cuts = std::map<std::string, std::function<at::Tensor(const at::Tensor& value)>>;

struct SeenRun {
  bridge::RunResult result;
  std::map<std::string, at::Tensor> watched;  // by name

  at::Tensor at(const std::string& name) const;
};

/// Keys and values of sharing blocks are watched where they are consumed: a cache has one copy for
/// them and their donor. At names that are given, what is shown is the run's own value; at names
/// that are cut, what the cut leaves of it.
SeenRun watched_run(const bridge::Bridge& model, const bridge::Input& input,
                    const std::vector<hooks::SiteRow>& names, const GivenValues& given = {},
                    const bridge::RunOptions& options = {}, const Cuts& cuts = {});

}  // namespace bezel::verify
