// From a model folder to a Bridge.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>

#include "bezel/bridge/bridge.h"

namespace bezel::adapters {

/// What a model is loaded for, beside text. What is left out takes no memory.
enum class Load : std::uint8_t { kWhereThereIsOne, kNever };
struct Modalities {
  Load vision = Load::kWhereThereIsOne, audio = Load::kWhereThereIsOne;
};

struct LoadOptions {
  /// float32, bfloat16 or float64; nullopt: as the checkpoint stores the embedding.
  std::optional<at::ScalarType> dtype{};
  at::Device device = at::kCPU;
  Modalities modalities{};
  /// Called on the loading thread after every few dozen MiB; it may throw to stop.
  std::function<void(std::int64_t bytes_done, std::int64_t bytes_total)> on_progress{};
};

/// Reads config.json, generation_config.json and the safetensors of a folder. Takes the memory of
/// the weights plus 64 MiB. Throws CheckpointError (see hooks/error.h) that names file, field or
/// tensor, what was found and what was expected; ArgumentError for a device that is not there.
bridge::Bridge load(const std::filesystem::path& folder, const LoadOptions& options = {});

/// The spec alone: no weights are read.
bridge::ModelSpec read_spec(const std::filesystem::path& folder);

}  // namespace bezel::adapters
