// Reads rows of a store. Opening looks at the manifest, the journals and each shard's metadata
// once; after that a row is one pread, without HDF5 and without a lock: safe in threads and in
// forked processes. Only what the journals recorded at opening is seen.
//
//   const bezel::store::Reader store("acts/");
//   const auto rows = store.read<float>("blocks.5.hook_resid_post", 0, 1000);   // [row d_model]
//   const auto means = store.read_shards<double>("blocks.5.hook_resid_post:mean");
//   // [shard d_model]; means(2, …) is of store.shards()[2].rows
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>
#include <xtensor/xarray.hpp>

#include "bezel/hooks/store/layout.h"
#include "bezel/hooks/store/shard_file.h"

namespace bezel::store {

enum class Checksum : std::uint8_t {
  kAlways,  // each block that a read touches is read whole and compared
  kFirst,   // the same, once for each block
  kNever,
};

struct ReaderOptions {
  Checksum checksum = Checksum::kFirst;
  Trust trust = Trust::kRecordedBytes;
};

/// A recorded shard, and its rows.
struct ShardRows {
  std::uint64_t shard = 0;
  Rows rows;
  bool operator==(const ShardRows&) const = default;
};

class Reader {
 public:
  /// Throws StoreError for what is no store or is damaged.
  explicit Reader(const std::filesystem::path& folder, ReaderOptions options = {},
                  std::shared_ptr<Io> io = make_posix_io());

  const Manifest& manifest() const { return manifest_; }
  const std::string& id() const { return id_; }
  /// All rows that the store is to have, and those it has: runs in order, none touching the next.
  std::uint64_t total_rows() const { return manifest_.total_rows; }
  std::vector<Rows> recorded() const;
  /// The recorded shards, in order.
  std::vector<ShardRows> shards() const;

  /// Rows as they are stored, C order. `name` is a value or a label (token_id, document, position,
  /// type). Throws StoreError for rows that are not recorded, or not what their checksum says, and
  /// ArgumentError, as all calls for rows do, for a value that has one entry a shard.
  void read_bytes(const std::string& name, Rows rows, std::span<std::byte> into) const;

  /// [row, …axes…]. bfloat16 is widened; no number is narrowed: ArgumentError says what to ask for.
  template <class Number>
  xt::xarray<Number> read(const std::string& name, std::uint64_t first, std::uint64_t n) const;
  /// Rows in any order, also twice.
  template <class Number>
  xt::xarray<Number> read_rows(const std::string& name,
                               const std::vector<std::uint64_t>& rows) const;

  /// The one entry that a value per shard (Value::per_shard) has in a recorded shard, as it is
  /// stored. Throws as read_bytes() does, and ArgumentError for a value that has rows.
  void read_shard_bytes(const std::string& name, std::uint64_t shard,
                        std::span<std::byte> into) const;
  /// […axes…] of one recorded shard.
  template <class Number>
  xt::xarray<Number> read_shard(const std::string& name, std::uint64_t shard) const;
  /// [shard, …axes…] of the recorded shards, in the order of shards(); no place for others.
  template <class Number>
  xt::xarray<Number> read_shards(const std::string& name) const;

  bool has(const std::string& name) const { return index_.contains(name); }
  const Dataset& dataset(const std::string& name) const;

 private:
  struct Column {
    std::uint64_t place = 0;
    std::vector<std::uint64_t> checksums;
    std::unique_ptr<std::atomic<bool>[]> is_checked;  // of each block
  };
  struct Shard {
    Rows rows;
    std::shared_ptr<const File> file;  // none beyond kMaxOpenFiles
    std::vector<Column> columns;
  };
  void add_shard(const Record& record);
  std::size_t index_of(const std::string& name) const;
  const Dataset& dataset_of_rows(const std::string& name) const;
  const Dataset& dataset_of_shards(const std::string& name) const;
  const Shard& shard_with(std::uint64_t row) const;
  std::shared_ptr<const File> file_of(const Shard& shard) const;
  const Shard& shard_of(std::uint64_t number) const;
  void require_recorded(Rows rows) const;
  void read_from(const Shard& shard, std::size_t index, Rows rows, std::byte* into) const;
  void read_compared(const File& file, const Shard& shard, std::size_t index, Rows part,
                     std::span<std::byte> into) const;

  std::filesystem::path folder_;
  ReaderOptions options_;
  std::shared_ptr<Io> io_;
  std::string id_;
  Manifest manifest_;
  std::vector<Dataset> datasets_;
  std::map<std::string, std::size_t, std::less<>> index_;
  std::map<std::uint64_t, Shard> shards_;
};

}  // namespace bezel::store
