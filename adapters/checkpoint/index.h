// model.safetensors.index.json: which shard of a checkpoint holds which tensor.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace bezel::checkpoint {

inline constexpr std::string_view kIndexName = "model.safetensors.index.json";

struct ShardIndex {
  std::map<std::string, std::string> shard_of;  // tensor name -> file name
  std::vector<std::string> shards;              // the file names, sorted, each once
};

/// Reads the text of an index; `what` (the file) starts every message. Shard names are plain file
/// names. `metadata` must have the right types, but total_size is not compared: published indexes
/// get it wrong after tied or stripped weights, and nothing depends on it.
ShardIndex parse_index(std::string_view text, const std::string& what);
ShardIndex read_index(const std::filesystem::path& file);

}  // namespace bezel::checkpoint
