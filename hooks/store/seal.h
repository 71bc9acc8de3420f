// The trailer of a file that stands alone, without a journal: behind the end of HDF5's bytes
// `bezel`, and the XXH3-128 (16 bytes, canonical order) of all that is before.
#pragma once

#include <cstdint>
#include <string>

#include "bezel/hooks/store/io.h"

namespace bezel::store {

/// What a file should be, for messages.
struct SealedKind {
  std::string wanted;  // "a cache that bezel wrote"
  std::string remedy;  // what to do about a damaged one: "Save the cache again"
};

inline constexpr std::uint64_t kSealBytes = 5 + 16;

/// Seals the file's first `n_bytes`.
void add_seal(File& file, std::uint64_t n_bytes);
/// Bytes before the seal. It shows accidents, not malice. Throws StoreError for any other file.
std::uint64_t check_seal(const File& file, const SealedKind& kind);

}  // namespace bezel::store
