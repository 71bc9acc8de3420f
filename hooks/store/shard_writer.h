// One shard on its way to disk: skeleton, values, checksums, and the steps that seal it. Until it
// is sealed it is a partial file that nobody reads.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bezel/hooks/store/hash.h"
#include "bezel/hooks/store/io.h"
#include "bezel/hooks/store/journal.h"
#include "bezel/hooks/store/skeleton.h"

namespace bezel::store {

class ShardWriter {
 public:
  /// Reserves the whole file in `folder`, and writes its metadata.
  ShardWriter(Io& io, std::filesystem::path folder, const Manifest& manifest, std::uint64_t shard,
              std::uint64_t rank);

  /// The next entries of one dataset (by its place in datasets_of()): whole ones, in order. Threads
  /// may write to different datasets at once. True for the call that completes the shard.
  bool write(std::size_t dataset, std::span<const std::byte> bytes);

  /// Makes a complete shard durable under its own name. Returns its record, which is for the
  /// journal. Throws StoreError, before it has that name, for other bytes than those of `wanted`
  /// (XXH3-128), where a record of them stands already.
  Record seal(const std::optional<std::string>& wanted);

  /// Removes the partial file. A failure is left to the next resume, which removes such files.
  void discard() noexcept;

  std::uint64_t shard() const { return shard_; }
  std::uint64_t file_bytes() const { return skeleton_.file_bytes; }

 private:
  struct Column {
    Dataset dataset;
    std::uint64_t n_wanted = 0, n_done = 0;  // entries
    Xxh3 block;                              // of the block that is being filled
    std::vector<std::uint64_t> checksums;    // of those that are full
  };
  void write_skeleton();
  void hash(Column& column, std::span<const std::byte> bytes) const;
  void check_column(const File& file, std::size_t dataset) const;

  Io& io_;
  std::filesystem::path folder_, partial_;
  Manifest manifest_;
  std::uint64_t shard_;
  Rows rows_;
  Skeleton skeleton_;
  std::vector<Column> columns_;
  std::atomic<std::size_t> n_open_columns_;
  std::unique_ptr<File> file_;
};

}  // namespace bezel::store
