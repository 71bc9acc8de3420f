#include "bezel/adapters/checkpoint/index.h"

#include <algorithm>
#include <set>

#include "bezel/adapters/checkpoint/json.h"
#include "bezel/adapters/checkpoint/model_file.h"
#include "bezel/adapters/checkpoint/text.h"
#include "bezel/hooks/error.h"

namespace bezel::checkpoint {
namespace {

using nlohmann::json;

// As large as the header that lists the same tensors.
constexpr JsonLimits kIndexLimits = {.max_bytes = 100'000'000, .max_values = 4'000'000};

[[noreturn]] void refuse(const std::string& what, const std::string& field, const json& found,
                         const std::string& expected) {
  throw FormatError(what + ": " + field + ": found " + describe(found) + ", expected " + expected);
}

void check_metadata(const json& root, const std::string& what) {
  const auto metadata = root.find("metadata");
  if (metadata == root.end() || metadata->is_null()) return;
  if (!metadata->is_object()) refuse(what, "metadata", *metadata, "an object");
  const auto total = metadata->find("total_size");
  if (total == metadata->end() || total->is_null()) return;
  // Some writers give a float.
  if (!total->is_number() || total->get<double>() < 0)
    refuse(what, "metadata.total_size", *total, "a number of bytes");
}

ShardIndex from_json(const json& root, const std::string& what) {
  static const std::string kExpectedMap = "an object from tensor names to shard file names";
  if (!root.is_object()) refuse(what, "the index", root, "an object");
  check_metadata(root, what);
  const auto map = root.find("weight_map");
  if (map == root.end())
    throw FormatError(what + ": weight_map: found nothing, expected " + kExpectedMap);
  if (!map->is_object() || map->empty()) refuse(what, "weight_map", *map, kExpectedMap);
  ShardIndex index;
  std::set<std::string> shards;
  for (const auto& [name, value] : map->items()) {
    const auto* shard = value.get_ptr<const std::string*>();
    if (shard == nullptr || !is_plain_file_name(*shard) || !shard->ends_with(".safetensors"))
      refuse(what, "weight_map: tensor " + quote(name), value,
             "a plain file name that ends in .safetensors");
    index.shard_of.emplace(name, *shard);
    shards.insert(*shard);
  }
  index.shards.assign(shards.begin(), shards.end());
  return index;
}

}  // namespace

ShardIndex parse_index(std::string_view text, const std::string& what) {
  return from_json(parse_json(text, what, kIndexLimits), what);
}

ShardIndex read_index(const std::filesystem::path& file) {
  return from_json(read_json_file(file, kIndexLimits), show(file));
}

}  // namespace bezel::checkpoint
