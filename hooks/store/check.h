// Is a store what its writer wrote? Nothing here writes.
#pragma once

#include <vector>

#include "bezel/hooks/store/survey.h"

namespace bezel::store {

enum class Depth : std::uint8_t {
  kQuick,  // manifest, journals, presence, sizes, each shard's metadata
  kFull,   // every byte
};

struct CheckReport {
  std::vector<Finding> findings;
  std::uint64_t n_rows = 0, total_rows = 0;

  bool is_sound() const;  // no damage
  bool is_complete() const { return n_rows == total_rows; }
};

/// Throws StoreError if the folder holds no store.
CheckReport check(Io& io, const std::filesystem::path& folder, Depth depth,
                  const ShardProgress& progress = {});

}  // namespace bezel::store
