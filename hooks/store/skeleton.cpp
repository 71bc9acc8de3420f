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
  builder.labels(made.id(), dataset);
  return builder.place_of(made);
}

Places add_all(const Builder& builder, hid_t root, const Manifest& manifest, std::uint64_t shard) {
  const Rows rows = rows_of_shard(manifest, shard);
  builder.text(root, "store", sha256_hex(to_text(manifest)));
  builder.number(root, "schema", kSchema);
  builder.number(root, "shard", shard);
  builder.number(root, "first_row", rows.first);
  builder.number(root, "n_rows", rows.n);
  const std::vector<std::string> groups = groups_of(manifest);
  for (const std::string& group : groups) builder.group(group);
  builder.group("/checksums");
  for (const std::string& group : groups) builder.group("/checksums" + group);
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

Skeleton make_skeleton(const Manifest& manifest, std::uint64_t shard) {
  const auto lock = h5::lock();
  const std::string what = shard_name(shard);
  h5::SparseStorage storage;
  Skeleton skeleton;
  {
    Handle file = h5::create_file(storage, what);
    const Builder builder(storage, file.id());
    {
      const Handle root(H5Gopen2(file.id(), "/", H5P_DEFAULT), H5Gclose);
      skeleton.places = add_all(builder, root.id(), manifest, shard);
    }
    if (H5Fflush(file.id(), H5F_SCOPE_LOCAL) < 0) h5::fail(storage, what + ": cannot be made");
  }
  if (storage.failure) std::rethrow_exception(storage.failure);
  skeleton.extents = storage.extents();
  skeleton.file_bytes = storage.size();
  return skeleton;
}

std::uint64_t plan_bytes(const Manifest& manifest, std::uint64_t n_shards_left) {
  return n_shards_left == 0 ? 0 : make_skeleton(manifest, 0).file_bytes * n_shards_left;
}

}  // namespace bezel::store
