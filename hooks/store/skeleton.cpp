#include "bezel/hooks/store/skeleton.h"

#include <array>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/h5.h"
#include "bezel/hooks/store/hash.h"

namespace bezel::store {
namespace {

using h5::Handle;

// Makes groups, datasets and attributes in one new file.
class Builder {
 public:
  Builder(h5::Storage& storage, hid_t file) : storage_(storage), file_(file) {}

  Handle group(const char* path) {
    const Handle creation(H5Pcreate(H5P_GROUP_CREATE), H5Pclose);
    H5Pset_obj_track_times(creation.id(), 0);  // equal contents are equal bytes
    Handle made(H5Gcreate2(file_, path, H5P_DEFAULT, creation.id(), H5P_DEFAULT), H5Gclose);
    if (made.id() < 0) h5::fail(storage_, std::string(path) + ": cannot be made");
    return made;
  }

  // A contiguous dataset whose bytes are reserved, not written.
  Handle dataset(const std::string& path, hid_t type, const std::vector<hsize_t>& shape) {
    const Handle layout(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    H5Pset_layout(layout.id(), H5D_CONTIGUOUS);
    H5Pset_alloc_time(layout.id(), H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(layout.id(), H5D_FILL_TIME_NEVER);
    H5Pset_obj_track_times(layout.id(), 0);
    const Handle space(H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr),
                       H5Sclose);
    Handle made(
        H5Dcreate2(file_, path.c_str(), type, space.id(), H5P_DEFAULT, layout.id(), H5P_DEFAULT),
        H5Dclose);
    if (made.id() < 0) h5::fail(storage_, path + ": cannot be made");
    return made;
  }

  void attribute(hid_t object, const char* name, hid_t type, hid_t space, const void* value) {
    const Handle made(H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    if (made.id() < 0 || H5Awrite(made.id(), type, value) < 0)
      h5::fail(storage_, std::string("attribute ") + name + ": cannot be made");
  }

  void number(hid_t object, const char* name, std::uint64_t number) {
    const Handle scalar(H5Screate(H5S_SCALAR), H5Sclose);
    const auto value = static_cast<std::int64_t>(number);
    attribute(object, name, H5T_STD_I64LE, scalar.id(), &value);
  }

  void text(hid_t object, const char* name, const std::string& text) {
    const Handle scalar(H5Screate(H5S_SCALAR), H5Sclose);
    const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(type.id(), text.size());
    H5Tset_strpad(type.id(), H5T_STR_NULLPAD);
    attribute(object, name, type.id(), scalar.id(), text.data());
  }

  // Variable-length on purpose: with fixed-length ones h5py's dims[i].label crashes.
  void texts(hid_t object, const char* name, const std::vector<const char*>& texts) {
    const std::array<hsize_t, 1> length = {texts.size()};
    const Handle space(H5Screate_simple(1, length.data(), nullptr), H5Sclose);
    attribute(object, name, h5::text_type().id(), space.id(), texts.data());
  }

  std::uint64_t place_of(const Handle& dataset) {
    const haddr_t place = H5Dget_offset(dataset.id());
    if (place == HADDR_UNDEF) h5::fail(storage_, "a dataset has no place in the file");
    return place;
  }

 private:
  h5::Storage& storage_;
  hid_t file_;
};

std::uint64_t add_values(Builder& builder, const Dataset& dataset, std::uint64_t n_rows) {
  std::vector<hsize_t> shape = {n_rows};
  shape.insert(shape.end(), dataset.shape.begin(), dataset.shape.end());
  const Handle made = builder.dataset(dataset.path, h5::type_of(dataset.dtype).id(), shape);
  std::vector<const char*> labels = {"row"};
  for (const std::string& axis : dataset.axes) labels.push_back(axis.c_str());
  builder.texts(made.id(), "DIMENSION_LABELS", labels);
  if (dataset.dtype == DType::kBFloat16) builder.text(made.id(), "dtype", "bfloat16");
  return builder.place_of(made);
}

Places add_all(Builder& builder, hid_t root, const Manifest& manifest, std::uint64_t shard) {
  const Rows rows = rows_of_shard(manifest, shard);
  builder.text(root, "store", sha256_hex(to_text(manifest)));
  builder.number(root, "schema", kSchema);
  builder.number(root, "shard", shard);
  builder.number(root, "first_row", rows.first);
  builder.number(root, "n_rows", rows.n);
  for (const char* group : {"/rows", "/acts", "/checksums", "/checksums/rows", "/checksums/acts"})
    builder.group(group);
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
    Builder builder(storage, file.id());
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
