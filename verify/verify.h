// Is it the same model? All phases on one model folder.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bezel/verify/report.h"

namespace bezel::verify {

/// Thrown by on_progress to stop; what was done until then is reported.
struct Interrupted {};

struct VerifyOptions {
  std::vector<int> phases{};  // by number; none: all that look at a part which the model has
  std::optional<std::filesystem::path>
      reference{};  // nullopt: <folder>/reference.h5, if it is there
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
  double strict = 1;
  std::function<void(const std::string& phase)> on_phase{};    // "P2 hooks" begins
  std::function<void(const std::string& what)> on_progress{};  // before and between checks
};

/// The name of a model in reports: its folder's.
std::string model_name(const std::filesystem::path& folder);

/// How many phases would run; 0 for a folder that cannot be read.
std::size_t n_phases(const std::filesystem::path& folder, const std::vector<int>& numbers);

/// Loads the model and runs the phases. Throws CheckpointError for a folder or a bundle that
/// cannot be used, and ArgumentError for a phase that does not exist.
Report verify(const std::filesystem::path& folder, const VerifyOptions& options = {});

}  // namespace bezel::verify
