// Writes a store: rows of named values in batches of any size, shard by shard.
//
//   Writer writer("acts/", manifest, {.start = Start::kResume});
//   for (const std::uint64_t shard : writer.todo()) {
//     writer.begin(shard);
//     …  writer.put("token_id", bytes);  writer.put("blocks.5.hook_resid_post", bytes);
//     writer.put("blocks.5.hook_resid_post:mean", bytes);  // one entry a shard
//   }
//   writer.finish();
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bezel/hooks/store/claim.h"
#include "bezel/hooks/store/io.h"
#include "bezel/hooks/store/layout.h"

namespace bezel::store {

/// After each shard that is durable.
struct Progress {
  std::uint64_t shards = 0, rows = 0, bytes = 0;  // of this writer, in this run
  std::uint64_t shards_planned = 0;
};

struct WriterOptions {
  Start start = Start::kNew;
  std::uint64_t rank = 0, n_ranks = 1;  // this writer takes the shards rank, rank + n_ranks, …
  std::string run = {};       // one name for all ranks of a run; may be empty for one rank
  std::size_t n_workers = 2;  // threads that hash and write
  std::uint64_t queue_bytes = std::uint64_t{256} << 20;
  std::function<void(const Progress&)> progress = {};  // on the sealing thread
  /// While a repair reads the store, before the constructor returns: shards read, of how many.
  ShardProgress repair_progress = {};
};

class Writer {
 public:
  /// Takes the folder, as claim() says.
  Writer(const std::filesystem::path& folder, const Manifest& manifest, WriterOptions options = {},
         std::shared_ptr<Io> io = make_posix_io());
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  Writer(Writer&&) = delete;
  Writer& operator=(Writer&&) = delete;
  /// Drops the open shard and removes its partial file; sealed shards stay.
  ~Writer();

  /// Shards that this writer is to write, in order; empty for a finished store. Of a repair these
  /// are the damaged ones too.
  const std::vector<std::uint64_t>& todo() const;
  Rows rows_of(std::uint64_t shard) const;
  /// Bytes of disk that they take, metadata included.
  std::uint64_t bytes_needed() const;

  /// Starts a shard; the one before must have all its rows. Waits until one before that is sealed.
  void begin(std::uint64_t shard);
  /// The next rows of a value or label of the open shard, as they are stored: whole rows in C
  /// order, little-endian; of a value per shard its one entry. `owner` keeps the bytes alive until
  /// they are written. Waits while the queue is full. Throws what went wrong in a worker, also
  /// earlier.
  void put(const std::string& name, std::span<const std::byte> rows,
           std::shared_ptr<const void> owner);
  void put(const std::string& name, std::vector<std::byte> rows);
  /// Waits until all is sealed and recorded; says in the journal that this writer has no more.
  void finish();

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace bezel::store
