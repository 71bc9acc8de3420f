// How a manifest's rows are cut into shards, and what datasets a shard holds: pure arithmetic.
//
//   /rows/token_id i32, /rows/document i64, /rows/position i32, (/rows/type u8)   [row]
//   /acts/<name>        [row, …axes…]
//   /checksums/<path>   u64 [block], XXH3-64 of each block's bytes; a block is whole rows
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bezel/hooks/store/manifest.h"

namespace bezel::store {

/// One dataset of every shard: the labels first, then the manifest's values in their order.
struct Dataset {
  std::string name;  // of the value; "token_id" … for a label
  std::string path;  // in the file: /acts/<name> or /rows/<name>
  std::vector<std::string> axes = {};
  std::vector<std::uint64_t> shape = {};  // behind the row axis
  DType dtype = DType::kFloat32;
  std::uint64_t row_bytes = 0;
  std::uint64_t rows_per_block = 0;
};
std::vector<Dataset> datasets_of(const Manifest& manifest);
std::size_t n_labels(const Manifest& manifest);

/// A run of rows.
struct Rows {
  std::uint64_t first = 0, n = 0;
  std::uint64_t end() const { return first + n; }
  bool operator==(const Rows&) const = default;
};
std::uint64_t n_shards(const Manifest& manifest);
Rows rows_of_shard(const Manifest& manifest, std::uint64_t shard);

std::uint64_t n_blocks(const Dataset& dataset, std::uint64_t n_rows);
/// The rows of one block, counted from the shard's first.
Rows rows_of_block(const Dataset& dataset, std::uint64_t n_rows, std::uint64_t block);

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
