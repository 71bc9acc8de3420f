#include "bezel/adapters/checkpoint/checkpoint.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "bezel/adapters/checkpoint/index.h"
#include "bezel/adapters/checkpoint/text.h"
#include "bezel/hooks/error.h"

namespace bezel::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSingleName = "model.safetensors";

// A dangling link counts: whoever follows it can say so.
bool has(const fs::path& folder, std::string_view name) {
  std::error_code error;
  return fs::exists(fs::symlink_status(folder / name, error));
}

// Files that tell why there are no weights to read, the most telling first.
struct Hint {
  std::string_view start, end, what;
};
constexpr Hint kHints[] = {
    {"adapter_model", ".safetensors", "merge this adapter into its base model and save that"},
    {"", ".safetensors", "shards need their model.safetensors.index.json"},
    {"", ".bin", "convert it to safetensors: load it with transformers, then save_pretrained"},
    {"", ".pt", "convert it to safetensors: load it with transformers, then save_pretrained"},
    {"", ".pth", "convert it to safetensors: load it with transformers, then save_pretrained"},
    {"", ".gguf", "bezel reads the safetensors of the original model"},
    {"", ".h5", "bezel reads the safetensors of the original model"},
    {"", ".msgpack", "bezel reads the safetensors of the original model"},
};

[[noreturn]] void refuse_without_weights(const fs::path& folder) {
  const std::string expected =
      ", expected " + std::string(kSingleName) + " or " + std::string(kIndexName);
  std::vector<std::string> names;
  std::error_code error;  // a folder that cannot be listed gives no hint
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
    names.push_back(at->path().filename().native());
  std::ranges::sort(names);
  for (const Hint& hint : kHints)
    for (const std::string& name : names)
      if (name.starts_with(hint.start) && name.ends_with(hint.end))
        throw UnsupportedError(show(folder) + ": found " + quote(name) + expected + "; " +
                               std::string(hint.what));
  throw FormatError(show(folder) + ": found no weights" + expected);
}

void check_folder(const fs::path& folder) {
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (fs::is_directory(status)) return;
  if (fs::exists(status))
    throw CheckpointError(show(folder) + ": found a file, expected the folder that holds a model");
  throw CheckpointError(show(folder) + ": found nothing (" + error.message() +
                        "), expected the folder that holds a model");
}

}  // namespace

Checkpoint Checkpoint::open(const fs::path& folder, const CheckpointLimits& limits) {
  check_folder(folder);
  Checkpoint checkpoint(folder);
  // The single file first, as transformers does when a folder has both.
  if (has(folder, kSingleName))
    checkpoint.add_file(std::string(kSingleName), limits);
  else if (has(folder, kIndexName))
    checkpoint.add_shards(limits);
  else
    refuse_without_weights(folder);
  return checkpoint;
}

void Checkpoint::add_file(const std::string& name, const CheckpointLimits& limits) {
  const auto file = std::make_shared<const ModelFile>(ModelFile::open(folder_, name));
  files_.emplace(file->path(), file);
  for (TensorInfo& tensor : read_header(*file)) {
    if (tensors_.size() == limits.max_tensors)
      throw ResourceLimitError(show(file->path()) + ": found too many tensors, expected at most " +
                               std::to_string(limits.max_tensors));
    std::string key = tensor.name;
    const auto [slot, is_new] = tensors_.try_emplace(std::move(key), std::move(tensor));
    if (!is_new)
      throw FormatError(show(file->path()) + ": tensor " + quote(slot->first) +
                        ": found a second one, expected it only in " + show(slot->second.file));
  }
}

void Checkpoint::add_shards(const CheckpointLimits& limits) {
  const fs::path index_file = folder_ / kIndexName;
  const ShardIndex index = read_index(index_file);
  if (index.shards.size() > limits.max_shards)
    throw ResourceLimitError(show(index_file) + ": weight_map: found " +
                             std::to_string(index.shards.size()) + " shards, expected at most " +
                             std::to_string(limits.max_shards));
  for (const std::string& shard : index.shards) {
    if (!has(folder_, shard))
      throw FormatError(show(index_file) + ": weight_map: shard " + quote(shard) +
                        ": found no such file, expected it beside the index; is the download "
                        "complete?");
    add_file(shard, limits);
  }
  for (const auto& [name, shard] : index.shard_of) {
    const TensorInfo* tensor = find(name);
    if (tensor != nullptr && tensor->file == folder_ / shard) continue;
    throw FormatError(show(index_file) + ": weight_map: tensor " + quote(name) + ": found it in " +
                      (tensor ? show(tensor->file) : "no shard") + ", expected it in " +
                      quote(shard) + " as the index says");
  }
}

const TensorInfo* Checkpoint::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

void Checkpoint::read(const TensorInfo& tensor, std::span<std::byte> destination) const {
  if (destination.size() != tensor.n_bytes)
    throw ArgumentError("Checkpoint::read: tensor " + quote(tensor.name) + ": found room for " +
                        std::to_string(destination.size()) + " bytes, expected " +
                        std::to_string(tensor.n_bytes));
  read(tensor, 0, destination);
}

void Checkpoint::read(const TensorInfo& tensor, std::uint64_t begin,
                      std::span<std::byte> destination) const {
  const auto file = files_.find(tensor.file);
  if (file == files_.end())
    throw ArgumentError("Checkpoint::read: tensor " + quote(tensor.name) + " is in " +
                        show(tensor.file) + ", which is not part of " + show(folder_));
  if (begin > tensor.n_bytes || destination.size() > tensor.n_bytes - begin)
    throw ArgumentError("Checkpoint::read: tensor " + quote(tensor.name) + ": found bytes " +
                        std::to_string(begin) + " and the " + std::to_string(destination.size()) +
                        " after it, expected a part of its " + std::to_string(tensor.n_bytes));
  file->second->read_at(tensor.offset + begin, destination);
}

}  // namespace bezel::checkpoint
