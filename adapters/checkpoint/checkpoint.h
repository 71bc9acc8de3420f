// The weights of a model folder: one safetensors file, or shards with their index.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "bezel/adapters/checkpoint/model_file.h"
#include "bezel/adapters/checkpoint/safetensors.h"

namespace bezel::checkpoint {

struct CheckpointLimits {
  std::size_t max_shards = 512;  // each keeps a file open
  std::size_t max_tensors = 1'000'000;
};

/// Knows every tensor and keeps the files open. Copies share the open files; threads may read at
/// the same time.
class Checkpoint {
 public:
  /// Opens model.safetensors or, where there is none, the shards that model.safetensors.index.json
  /// lists. `folder` may be a snapshot in a Hugging Face cache. Only headers are read.
  static Checkpoint open(const std::filesystem::path& folder, const CheckpointLimits& limits = {});

  const std::filesystem::path& folder() const { return folder_; }
  /// By name. Tensors that a shard holds beyond the index are among them.
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  /// nullptr when absent.
  const TensorInfo* find(const std::string& name) const;

  /// Reads a tensor of this checkpoint into `destination`, which must have exactly its size.
  /// FormatError if the file changed its length since it was opened.
  void read(const TensorInfo& tensor, std::span<std::byte> destination) const;
  /// The same for the bytes of a tensor from `begin` on, as many as `destination` has.
  void read(const TensorInfo& tensor, std::uint64_t begin, std::span<std::byte> destination) const;

 private:
  explicit Checkpoint(std::filesystem::path folder) : folder_(std::move(folder)) {}
  void add_file(const std::string& name, const CheckpointLimits& limits);
  void add_shards(const CheckpointLimits& limits);

  std::filesystem::path folder_;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::filesystem::path, std::shared_ptr<const ModelFile>> files_;
};

}  // namespace bezel::checkpoint
