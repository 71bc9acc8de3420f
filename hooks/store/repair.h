// What of a damaged store stays, and what has to be made again. Journals keep the records before
// the first that is damaged; shards that lost theirs are recorded anew if they are whole; a shard
// whose record stands comes back with exactly the bytes that it says.
#pragma once

#include <map>
#include <vector>

#include "bezel/hooks/store/survey.h"

namespace bezel::store {

struct Repair {
  std::map<std::uint64_t, std::uint64_t> cuts;  // of journals, by rank: the entries that stay
  std::map<std::uint64_t, Record> sound;        // recorded, and every byte is as its record says
  std::map<std::uint64_t, Record> damaged;      // recorded, and missing or other bytes
  std::map<std::uint64_t, Record> regained;     // whole, but their record is lost
  std::vector<std::uint64_t> to_remove;         // shards under whose name lies what does not stay
  std::uint64_t n_bytes_freed = 0;              // by that
};

/// Reads every byte of a store whose manifest is sound; changes nothing. Throws StoreError for what
/// cannot be read: that may pass, and what is not known to be damaged is not removed.
Repair plan_repair(Io& io, const std::filesystem::path& folder, const Survey& found,
                   const ShardProgress& progress = {});

/// Cuts the journals and removes the files. For the one writer of the folder, of rank `rank`: the
/// journals of the others have ended then.
void start_repair(Io& io, const std::filesystem::path& folder, const Survey& found,
                  const Repair& repair, std::uint64_t rank);

}  // namespace bezel::store
