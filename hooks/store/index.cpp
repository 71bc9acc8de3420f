#include "bezel/hooks/store/index.h"

#include <array>

#include "bezel/hooks/store/h5_builder.h"

namespace bezel::store {
namespace {

using h5::Handle;

// What a row shows that no shard holds. HDF5's own default would show zeros.
std::array<std::byte, 8> missing(DType dtype) {
  constexpr auto kOnes = std::byte{0xFF};  // a NaN in each float type, -1 in each integer type
  std::array<std::byte, 8> bytes{};
  for (std::size_t i = 0; i < size_of(dtype); ++i) bytes[i] = kOnes;
  return bytes;
}

void add_dataset(const h5::Builder& builder, h5::Storage& storage, const Survey& found,
                 const Dataset& dataset) {
  const Handle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  const Handle type = h5::type_of(dataset.dtype);
  const auto fill = missing(dataset.dtype);
  H5Pset_fill_value(creation.id(), type.id(), fill.data());
  const Rows last = entries_of(dataset, found.manifest, n_shards(found.manifest) - 1);
  const std::vector<hsize_t> shape = h5::shape_of(dataset, last.end());
  const int rank = static_cast<int>(shape.size());
  const Handle whole(H5Screate_simple(rank, shape.data(), nullptr), H5Sclose);
  for (const auto& [shard, record] : found.records) {
    std::vector<hsize_t> start(shape.size(), 0), count = shape;
    const Rows entries = entries_of(dataset, found.manifest, shard);
    start[0] = entries.first;
    count[0] = entries.n;
    const Handle source(H5Screate_simple(rank, count.data(), nullptr), H5Sclose);
    if (H5Sselect_hyperslab(whole.id(), H5S_SELECT_SET, start.data(), nullptr, count.data(),
                            nullptr) < 0 ||
        H5Pset_virtual(creation.id(), whole.id(), shard_name(shard).c_str(), dataset.path.c_str(),
                       source.id()) < 0)
      h5::fail(storage, dataset.path + ": cannot be shown from " + shard_name(shard));
  }
  builder.dataset(dataset.path, type.id(), shape, creation.id());
  builder.labels(dataset.path, axes_of(dataset), dataset.dtype);
}

}  // namespace

std::vector<std::byte> make_index(const Survey& found) {
  h5::SparseStorage storage;
  h5::make_file(storage, kIndexName, h5::Use::kMakePages, [&](const h5::Builder& builder) {
    for (const std::string& group : groups_of(found.manifest)) builder.group(group);
    for (const Dataset& dataset : datasets_of(found.manifest))
      add_dataset(builder, storage, found, dataset);
    builder.attribute("/", "store", found.id);
    builder.attribute("/", "schema", static_cast<std::int64_t>(kSchema));
  });
  std::vector<std::byte> bytes(storage.size());
  storage.read(0, bytes);
  return bytes;
}

void write_index(Io& io, const std::filesystem::path& folder) {
  const Survey found = survey(io, folder);
  refuse_damage(found, folder);
  const auto bytes = make_index(found);
  const auto partial = folder / partial_name(kIndexName, 0);
  if (io.exists(partial)) io.unlink(partial);  // of a process with this number that died
  {
    const auto file = io.open(partial, OpenMode::kCreate);
    write_all(*file, 0, bytes);
    file->sync();
  }
  io.rename_over(partial, folder / kIndexName);
  io.sync_folder(folder);
}

}  // namespace bezel::store
