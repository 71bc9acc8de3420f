// index.h5: one HDF5 file that shows all recorded shards as one, for tools that know HDF5 and not
// bezel. Made of virtual datasets with relative paths; a cache that can be made again at any time.
#pragma once

#include "bezel/hooks/store/survey.h"

namespace bezel::store {

inline constexpr const char* kIndexName = "index.h5";

/// The file's bytes: /rows and /acts over all rows, /reduce over all shards. What is not recorded
/// reads as NaN, of whole numbers as -1 (255 for types).
std::vector<std::byte> make_index(const Survey& found);

/// Writes it over an older one. Throws StoreError for a damaged store, or where it cannot write.
void write_index(Io& io, const std::filesystem::path& folder);

}  // namespace bezel::store
