// Takes a folder for one writer: a new store, or a started one that goes on exactly where it
// stopped. Everything that can refuse comes before the first change on disk.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bezel/hooks/store/io.h"
#include "bezel/hooks/store/journal.h"
#include "bezel/hooks/store/manifest.h"
#include "bezel/hooks/store/run_lock.h"
#include "bezel/hooks/store/survey.h"

namespace bezel::store {

enum class Start : std::uint8_t {
  kNew,     // a folder that holds a store is refused
  kResume,  // an absent or empty folder starts anew, a finished store has nothing to do
  kRepair,  // a store with damaged or lost shards and journals, by one rank alone; see repair.h
};

struct Claim {
  std::unique_ptr<File> lock;
  std::unique_ptr<JournalWriter> journal;  // none for a finished store
  std::vector<std::uint64_t> todo;  // this rank's shards without a record or, of a repair, a file
  std::map<std::uint64_t, std::string> recorded;  // the hash of those whose record stands
  std::uint64_t bytes_needed = 0;                 // of disk, for them
};

/// Throws StoreError: a store that differs from `manifest` (each field with both values), another
/// writer, damage, a folder with other things, too little space. Removes torn journal tails,
/// partial files and sealed shards without a record, of this rank and of ranks that the run no
/// longer has. A repair takes damage (not of the manifest), and removes what plan_repair() says;
/// ArgumentError if it has several ranks. Its progress is plan_repair()'s.
Claim claim(Io& io, const std::filesystem::path& folder, const Manifest& manifest, const RunId& id,
            Start start, const ShardProgress& repair_progress = {});

}  // namespace bezel::store
