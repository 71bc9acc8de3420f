// How a manifest's rows are cut into shards, and what datasets a shard holds: pure arithmetic.
//
//   /rows/token_id i32, /rows/document i64, /rows/position i32, (/rows/type u8)   [row]
//   /acts/<name>        [row, …axes…]
//   /reduce/<name>      [shard, …axes…], one entry, of all rows of this shard
//   /checksums/<path>   u64 [block], XXH3-64 of each block's bytes; a block is whole entries
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bezel/hooks/store/manifest.h"

namespace bezel::store {

/// One dataset of every shard: the labels first, then the manifest's values in their order.
struct Dataset {
  std::string name;                    // of the value; "token_id" … for a label
  std::string path;                    // in the file: /acts/<name>, /reduce/<name> or /rows/<name>
  std::vector<std::string> axes = {};  // behind the first
  std::vector<std::uint64_t> shape = {};  // of those
  DType dtype = DType::kFloat32;
  std::uint64_t row_bytes = 0;  // of an entry along the first axis: a row, or a whole shard's
  std::uint64_t rows_per_block = 0;
  bool per_shard = false;  // the first axis is shard, not row
};
std::vector<Dataset> datasets_of(const Manifest& manifest);
/// Of a row, or of a shard's one entry.
std::uint64_t entry_bytes(const Value& value);
std::size_t n_labels(const Manifest& manifest);
/// The groups that a shard's datasets lie in, without those of the checksums.
std::vector<std::string> groups_of(const Manifest& manifest);
/// "row" or "shard", then the other axes: DIMENSION_LABELS.
std::vector<std::string> axes_of(const Dataset& dataset);

/// A run of rows.
struct Rows {
  std::uint64_t first = 0, n = 0;
  std::uint64_t end() const { return first + n; }
  bool operator==(const Rows&) const = default;
};
std::uint64_t n_shards(const Manifest& manifest);
Rows rows_of_shard(const Manifest& manifest, std::uint64_t shard);

/// Entries of a dataset in a shard of `n_rows` rows: one each, or one for all of them.
std::uint64_t n_entries(const Dataset& dataset, std::uint64_t n_rows);
/// Where a shard's entries stand among those of the whole store.
Rows entries_of(const Dataset& dataset, const Manifest& manifest, std::uint64_t shard);

std::uint64_t n_blocks(const Dataset& dataset, std::uint64_t n_rows);
/// The entries of one block, counted from the shard's first.
Rows rows_of_block(const Dataset& dataset, std::uint64_t n_rows, std::uint64_t block);
/// The store's rows that a block speaks of, in the shard with the rows `shard`.
Rows rows_behind_block(const Dataset& dataset, Rows shard, std::uint64_t block);

std::string shard_name(std::uint64_t shard);                     // shard-000007.h5
std::optional<std::uint64_t> shard_of_name(const std::string&);  // 7; nothing for other names
std::string journal_name(std::uint64_t rank);                    // journal-3.log
std::optional<std::uint64_t> rank_of_journal(const std::string& name);
std::string lock_name(std::uint64_t rank);  // LOCK.3
std::optional<std::uint64_t> rank_of_lock(const std::string& name);
/// What is being written: "<name without .h5>.<rank>.<pid>.partial".
std::string partial_name(const std::string& name, std::uint64_t rank);
std::optional<std::uint64_t> rank_of_partial(const std::string& name);

}  // namespace bezel::store
