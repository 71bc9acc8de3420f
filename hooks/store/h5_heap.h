// HDF5's global heap, where texts of variable length are: no checksum guards it, and HDF5 1.10
// follows its sizes wherever they lead. Only for this folder's .cpp files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "bezel/hooks/store/h5.h"

namespace bezel::store::h5 {

/// The objects of one collection by their numbers, each checked to lie in it. None where `bytes`
/// are only its beginning. Throws StoreError for anything else.
std::map<std::uint64_t, std::span<const std::byte>> objects_in(const Storage& storage,
                                                               std::span<const std::byte> bytes);

/// Whether bytes begin as a collection does.
bool is_collection(std::span<const std::byte> bytes);

/// The texts that `n` descriptors from `place` on stand for. Together they are no longer than the
/// file. Throws StoreError.
std::vector<std::string> texts_at(Storage& storage, std::uint64_t place, std::uint64_t n);

}  // namespace bezel::store::h5
