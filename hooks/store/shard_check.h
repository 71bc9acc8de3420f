// Every byte of a shard against its record, and which dataset, block and rows a damage lies in.
#pragma once

#include <map>
#include <vector>

#include "bezel/hooks/store/io.h"
#include "bezel/hooks/store/journal.h"
#include "bezel/hooks/store/layout.h"
#include "bezel/hooks/store/skeleton.h"

namespace bezel::store {

/// XXH3-64 of the entries `rows` (counted from the shard's first) of a dataset that begins at
/// `place`.
std::uint64_t block_hash(const File& file, std::uint64_t place, const Dataset& dataset, Rows rows);

/// A block whose bytes are not what its checksum says.
struct BadBlock {
  std::size_t dataset = 0;  // place in datasets_of()
  std::uint64_t block = 0;
  std::uint64_t found = 0, stored = 0;  // XXH3-64
};
std::vector<BadBlock> bad_blocks(const File& file, const Manifest& manifest, std::uint64_t shard,
                                 const Places& places);

/// Whether a file is a shard of this store whose every byte its own metadata and checksums vouch
/// for: those of make_skeleton(), whole blocks, zeros between them. For shards without a record.
bool is_whole(const File& file, const Manifest& manifest, std::uint64_t shard,
              const Skeleton& skeleton);

/// What is damaged in a file of the right size; one line each, none for a sound one. HDF5 does not
/// look into it. `skeleton` is what make_skeleton() gives for the shard, `records` are all of the
/// store: a file may be another's.
std::vector<std::string> find_damage(const File& file, const Manifest& manifest,
                                     const Record& record, const Skeleton& skeleton,
                                     const std::map<std::uint64_t, Record>& records);

}  // namespace bezel::store
