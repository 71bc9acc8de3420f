// A sealed shard, opened for reading: it is the shard its record says, of this store, with the
// manifest's datasets, and it lies whole in the file. Its values' bytes are not looked at.
//
// HDF5's parser dies of some flipped bits, so it is the last resort: metadata that is byte for byte
// what this bezel writes is not parsed at all, and other metadata only when the whole file has the
// hash of its record (then it was written with another version of HDF5).
#pragma once

#include <memory>

#include "bezel/hooks/store/io.h"
#include "bezel/hooks/store/journal.h"
#include "bezel/hooks/store/skeleton.h"

namespace bezel::store {

/// What may be parsed of a store whose maker may be malicious: a hash shows accidents only.
enum class Trust : std::uint8_t { kRecordedBytes, kOwnBytesOnly };

struct ShardFile {
  std::unique_ptr<File> file;
  std::uint64_t n_rows = 0;
  Places places;
};

/// Throws StoreError, which names what was found and what was wanted.
ShardFile open_shard(Io& io, const std::filesystem::path& path, const Manifest& manifest,
                     const Record& record, Trust trust);

/// The record of a file that is, or is to be, a sealed shard.
Record record_of(const File& file, const Manifest& manifest, std::uint64_t shard);

/// Whether the file's metadata are the very bytes that make_skeleton() gives: then its places hold.
bool has_bytes_of(const File& file, const Skeleton& skeleton);

}  // namespace bezel::store
