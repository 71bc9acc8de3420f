#include "bezel/hooks/store/layout.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <numeric>

namespace bezel::store {
namespace {

constexpr std::uint64_t kLabelRowsPerBlock = std::uint64_t{1} << 18;  // 1–2 MiB
constexpr std::size_t kShardDigits = 6;
constexpr std::string_view kPartial = ".partial";

Dataset label(const Manifest& manifest, const char* name, DType dtype) {
  return {.name = name,
          .path = std::string("/rows/") + name,
          .dtype = dtype,
          .row_bytes = size_of(dtype),
          .rows_per_block = std::min(kLabelRowsPerBlock, manifest.rows_per_shard)};
}

// The number between two texts, written as to_string() writes it but for leading zeros.
std::optional<std::uint64_t> number_between(std::string_view name, std::string_view before,
                                            std::string_view after) {
  if (!name.starts_with(before) || !name.ends_with(after) ||
      name.size() <= before.size() + after.size())
    return std::nullopt;
  name = name.substr(before.size(), name.size() - before.size() - after.size());
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(name.begin(), name.end(), number);
  return error == std::errc() && end == name.end() ? std::optional(number) : std::nullopt;
}

// Only the one spelling of a name counts.
std::optional<std::uint64_t> only(std::optional<std::uint64_t> number, const std::string& name,
                                  std::string (*spell)(std::uint64_t)) {
  return number && spell(*number) == name ? number : std::nullopt;
}

}  // namespace

std::size_t n_labels(const Manifest& manifest) { return manifest.has_types ? 4 : 3; }

std::uint64_t entry_bytes(const Value& value) {
  return std::accumulate(value.shape.begin(), value.shape.end(), size_of(value.dtype),
                         std::multiplies<>());
}

std::vector<Dataset> datasets_of(const Manifest& manifest) {
  std::vector<Dataset> datasets = {label(manifest, "token_id", DType::kInt32),
                                   label(manifest, "document", DType::kInt64),
                                   label(manifest, "position", DType::kInt32)};
  if (manifest.has_types) datasets.push_back(label(manifest, "type", DType::kUInt8));
  for (const Value& value : manifest.values) {
    datasets.push_back({.name = value.name,
                        .path = (value.per_shard ? "/reduce/" : "/acts/") + value.name,
                        .axes = value.axes,
                        .shape = value.shape,
                        .dtype = value.dtype,
                        .row_bytes = entry_bytes(value),
                        .rows_per_block = value.rows_per_block,
                        .per_shard = value.per_shard});
  }
  return datasets;
}

std::vector<std::string> groups_of(const Manifest& manifest) {
  std::vector<std::string> groups = {"/rows", "/acts"};
  if (std::ranges::any_of(manifest.values, &Value::per_shard)) groups.emplace_back("/reduce");
  return groups;
}

std::vector<std::string> axes_of(const Dataset& dataset) {
  std::vector<std::string> axes = {dataset.per_shard ? "shard" : "row"};
  axes.insert(axes.end(), dataset.axes.begin(), dataset.axes.end());
  return axes;
}

std::uint64_t n_shards(const Manifest& manifest) {
  return (manifest.total_rows - 1) / manifest.rows_per_shard + 1;
}

Rows rows_of_shard(const Manifest& manifest, std::uint64_t shard) {
  const std::uint64_t first = shard * manifest.rows_per_shard;
  return {.first = first, .n = std::min(manifest.rows_per_shard, manifest.total_rows - first)};
}

std::uint64_t n_entries(const Dataset& dataset, std::uint64_t n_rows) {
  return dataset.per_shard ? 1 : n_rows;
}

Rows entries_of(const Dataset& dataset, const Manifest& manifest, std::uint64_t shard) {
  return dataset.per_shard ? Rows{shard, 1} : rows_of_shard(manifest, shard);
}

std::uint64_t n_blocks(const Dataset& dataset, std::uint64_t n_rows) {
  return (n_entries(dataset, n_rows) - 1) / dataset.rows_per_block + 1;
}

Rows rows_of_block(const Dataset& dataset, std::uint64_t n_rows, std::uint64_t block) {
  const std::uint64_t first = block * dataset.rows_per_block;
  return {.first = first,
          .n = std::min(dataset.rows_per_block, n_entries(dataset, n_rows) - first)};
}

Rows rows_behind_block(const Dataset& dataset, Rows shard, std::uint64_t block) {
  if (dataset.per_shard) return shard;
  const Rows rows = rows_of_block(dataset, shard.n, block);
  return {.first = shard.first + rows.first, .n = rows.n};
}

std::string shard_name(std::uint64_t shard) {
  const std::string digits = std::to_string(shard);
  return "shard-" + std::string(kShardDigits - std::min(kShardDigits, digits.size()), '0') +
         digits + ".h5";
}

std::optional<std::uint64_t> shard_of_name(const std::string& name) {
  return only(number_between(name, "shard-", ".h5"), name, shard_name);
}

std::string journal_name(std::uint64_t rank) { return "journal-" + std::to_string(rank) + ".log"; }

std::optional<std::uint64_t> rank_of_journal(const std::string& name) {
  return only(number_between(name, "journal-", ".log"), name, journal_name);
}

std::string lock_name(std::uint64_t rank) { return "LOCK." + std::to_string(rank); }

std::optional<std::uint64_t> rank_of_lock(const std::string& name) {
  return only(number_between(name, "LOCK.", ""), name, lock_name);
}

std::string partial_name(const std::string& name, std::uint64_t rank) {
  return name.substr(0, name.rfind(".h5")) + "." + std::to_string(rank) + "." +
         std::to_string(::getpid()) + std::string(kPartial);
}

std::optional<std::uint64_t> rank_of_partial(const std::string& name) {
  if (!name.ends_with(kPartial)) return std::nullopt;
  const auto before_pid = name.rfind('.', name.size() - kPartial.size() - 1);
  if (before_pid == name.npos || before_pid == 0) return std::nullopt;
  const auto before_rank = name.rfind('.', before_pid - 1);
  if (before_rank == name.npos) return std::nullopt;
  return number_between(std::string_view(name).substr(0, before_pid),
                        std::string_view(name).substr(0, before_rank + 1), "");
}

}  // namespace bezel::store
