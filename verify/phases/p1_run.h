// A run of P1, of which every value is had as its consumer gets it.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "bezel/bridge/bridge.h"

namespace bezel::verify {

using ExpertChoices = std::map<std::string, at::Tensor>;  // [batch pos k] int64, by name

struct SeenRun {
  bridge::RunResult result;
  std::map<std::string, at::Tensor> watched;  // by name

  at::Tensor at(const std::string& name) const;
};

/// Keys and values of sharing blocks are watched where they are consumed: a cache has one copy for
/// them and their donor. Where choices are given the run takes these experts, and what it would
/// have taken is what it shows.
SeenRun watched_run(const bridge::Bridge& model, const bridge::Input& input,
                    const std::vector<hooks::SiteRow>& names, const ExpertChoices& choices = {},
                    const bridge::RunOptions& options = {});

}  // namespace bezel::verify
