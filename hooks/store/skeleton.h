// A shard without its values: everything in the file that HDF5 writes, made in memory. It follows
// from the manifest and the shard's number alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "bezel/hooks/store/attribute.h"
#include "bezel/hooks/store/layout.h"

namespace bezel::store {

/// Where in a shard's file the bytes of each dataset begin; by the place in datasets_of().
struct Places {
  std::vector<std::uint64_t> data, checksums;
  bool operator==(const Places&) const = default;
};

struct Skeleton {
  std::map<std::uint64_t, std::vector<std::byte>> extents;  // HDF5's bytes, by their place
  std::uint64_t file_bytes = 0;
  Places places;
};

/// The attributes of the root: which shard of which store it is.
std::vector<std::pair<std::string, Attribute>> identity_of(const Manifest& manifest,
                                                           std::uint64_t shard);
Skeleton make_skeleton(const Manifest& manifest, std::uint64_t shard);

/// Bytes of all shards that are named, for the plan of a run; as if each had the first one's size.
std::uint64_t plan_bytes(const Manifest& manifest, std::uint64_t n_shards_left);

}  // namespace bezel::store
