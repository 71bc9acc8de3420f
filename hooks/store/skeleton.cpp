#include "bezel/hooks/store/skeleton.h"

#include "bezel/hooks/store/h5_builder.h"
#include "bezel/hooks/store/hash.h"

namespace bezel::store {
namespace {

using h5::Builder;
using h5::Handle;

std::uint64_t add_values(const Builder& builder, const Dataset& dataset, std::uint64_t n_rows) {
  const Handle made = builder.dataset(dataset.path, h5::type_of(dataset.dtype).id(),
                                      h5::shape_of(dataset, n_entries(dataset, n_rows)));
  builder.labels(dataset.path, axes_of(dataset), dataset.dtype);
  return builder.place_of(made);
}

Places add_all(const Builder& builder, const Manifest& manifest, std::uint64_t shard) {
  for (const auto& [name, value] : identity_of(manifest, shard))
    builder.attribute("/", name, value);
  const std::vector<std::string> groups = groups_of(manifest);
  for (const std::string& group : groups) builder.group(group);
  builder.group("/checksums");
  for (const std::string& group : groups) builder.group("/checksums" + group);
  const Rows rows = rows_of_shard(manifest, shard);
  Places places;
  for (const Dataset& dataset : datasets_of(manifest)) {
    places.data.push_back(add_values(builder, dataset, rows.n));
    const Handle sums =
        builder.dataset("/checksums" + dataset.path, H5T_STD_U64LE, {n_blocks(dataset, rows.n)});
    places.checksums.push_back(builder.place_of(sums));
  }
  return places;
}

}  // namespace

std::vector<std::pair<std::string, Attribute>> identity_of(const Manifest& manifest,
                                                           std::uint64_t shard) {
  const Rows rows = rows_of_shard(manifest, shard);
  return {{"store", sha256_hex(to_text(manifest))},
          {"schema", static_cast<std::int64_t>(kSchema)},
          {"shard", static_cast<std::int64_t>(shard)},
          {"first_row", static_cast<std::int64_t>(rows.first)},
          {"n_rows", static_cast<std::int64_t>(rows.n)}};
}

Skeleton make_skeleton(const Manifest& manifest, std::uint64_t shard) {
  h5::SparseStorage storage;
  Skeleton skeleton;
  h5::make_file(storage, shard_name(shard), h5::Use::kMakePages, [&](const Builder& builder) {
    skeleton.places = add_all(builder, manifest, shard);
  });
  skeleton.extents = storage.extents();
  skeleton.file_bytes = storage.size();
  return skeleton;
}

std::uint64_t plan_bytes(const Manifest& manifest, std::uint64_t n_shards_left) {
  return n_shards_left == 0 ? 0 : make_skeleton(manifest, 0).file_bytes * n_shards_left;
}

}  // namespace bezel::store
