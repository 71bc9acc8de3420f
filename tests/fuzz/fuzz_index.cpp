// Any bytes as model.safetensors.index.json. No accepted shard name leads out of the folder, and
// the map is what a second parser reads.
#include <algorithm>
#include <filesystem>
#include <set>

#include "bezel/adapters/checkpoint/index.h"
#include "bezel/hooks/error.h"
#include "tests/fuzz/check.h"

namespace bezel::fuzz {
namespace {

bool stays_in_folder(const std::string& shard) {
  const std::filesystem::path folder = "/models/gemma", path = folder / shard;
  return path.lexically_normal().parent_path() == folder && path.filename() == shard &&
         std::ranges::count(shard, '\0') == 0;
}

void run(std::string_view text) {
  try {
    const checkpoint::ShardIndex index = checkpoint::parse_index(text, "file");
    std::set<std::string> shards;
    for (const auto& [name, shard] : index.shard_of) {
      require(stays_in_folder(shard), "a plain name", shard);
      require(shard.ends_with(".safetensors"), "a safetensors file", shard);
      shards.insert(shard);
    }
    require(!shards.empty(), "not empty", text);
    require(std::ranges::equal(shards, index.shards), "every shard once", text);
    require(nlohmann::json::parse(text).at("weight_map") == nlohmann::json(index.shard_of),
            "the map as it is written", text);
  } catch (const CheckpointError& error) {
    require_clear(error.what(), "file");
  }
}

}  // namespace
}  // namespace bezel::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bezel::fuzz::run(bezel::fuzz::as_text(data, size));
  return 0;
}
