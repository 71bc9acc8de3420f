// A run of which every value is had as its consumer gets it.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "bezel/bridge/bridge.h"

namespace bezel::verify {

/// What a run takes at these names instead of its own values.
using GivenValues = std::map<std::string, at::Tensor>;

struct SeenRun {
  bridge::RunResult result;
  std::map<std::string, at::Tensor> watched;  // by name

  at::Tensor at(const std::string& name) const;
};

/// Keys and values of sharing blocks are watched where they are consumed: a cache has one copy for
/// them and their donor. At names that are given, what is shown is the run's own value.
SeenRun watched_run(const bridge::Bridge& model, const bridge::Input& input,
                    const std::vector<hooks::SiteRow>& names, const GivenValues& given = {},
                    const bridge::RunOptions& options = {});

}  // namespace bezel::verify
