#include "bezel/hooks/store/shard_file.h"

#include <algorithm>
#include <array>
#include <utility>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/h5.h"
#include "bezel/hooks/store/hash.h"

namespace bezel::store {
namespace {

using h5::Handle;

// Looks into a file with HDF5's own reader.
class Parser {
 public:
  Parser(const File& file, h5::Storage& storage)
      : path_(file.path().string()), storage_(storage), file_(h5::open_file(storage, path_)) {}

  [[noreturn]] void refuse(const std::string& why) const { h5::fail(storage_, path_ + ": " + why); }

  void want_text(const char* name, const std::string& wanted) const {
    const Handle attribute = open_attribute(name);
    const Handle type(H5Aget_type(attribute.id()), H5Tclose);
    std::string found(wanted.size(), '\0');
    if (H5Tget_class(type.id()) != H5T_STRING || H5Tis_variable_str(type.id()) > 0 ||
        H5Tget_size(type.id()) != wanted.size() || n_elements(attribute) != 1 ||
        H5Aread(attribute.id(), type.id(), found.data()) < 0)
      refuse(std::string("its ") + name + " is no text of " + std::to_string(wanted.size()) +
             " bytes");
    if (found != wanted)
      refuse(std::string("its ") + name + " is " + found + "; wanted " + wanted +
             ": it is of another store");
  }

  void want_number(const char* name, std::uint64_t wanted) const {
    const Handle attribute = open_attribute(name);
    const Handle type(H5Aget_type(attribute.id()), H5Tclose);
    std::int64_t found = 0;
    if (H5Tget_class(type.id()) != H5T_INTEGER || n_elements(attribute) != 1 ||
        H5Aread(attribute.id(), H5T_NATIVE_INT64, &found) < 0)
      refuse(std::string("its ") + name + " is no whole number");
    if (found != static_cast<std::int64_t>(wanted))
      refuse(std::string("its ") + name + " is " + std::to_string(found) + "; wanted " +
             std::to_string(wanted));
  }

  // The place of a contiguous dataset of this type and shape, checked to lie inside the file.
  std::uint64_t place_of(const std::string& path, hid_t type, const std::vector<hsize_t>& shape,
                         std::uint64_t n_bytes) const {
    const Handle dataset = open_dataset(path);
    const Handle stored(H5Dget_type(dataset.id()), H5Tclose);
    if (H5Tequal(stored.id(), type) <= 0) refuse(path + " has another type than the manifest says");
    const Handle space(H5Dget_space(dataset.id()), H5Sclose);
    std::vector<hsize_t> found(shape.size());
    if (H5Sget_simple_extent_ndims(space.id()) != static_cast<int>(shape.size()) ||
        H5Sget_simple_extent_dims(space.id(), found.data(), nullptr) < 0 || found != shape)
      refuse(path + " has another shape than the manifest says");
    const Handle made(H5Dget_create_plist(dataset.id()), H5Pclose);
    const std::uint64_t place = H5Dget_offset(dataset.id());
    if (H5Pget_layout(made.id()) != H5D_CONTIGUOUS || H5Pget_external_count(made.id()) != 0 ||
        place == HADDR_UNDEF)
      refuse(path + " is stored in pieces or elsewhere");
    if (place > storage_.size() || n_bytes > storage_.size() - place)
      refuse(path + " claims more bytes than the file has");
    return place;
  }

  void want_labels(const std::string& path, const std::vector<std::string>& axes) const {
    const Handle dataset = open_dataset(path);
    const Handle attribute(H5Aopen(dataset.id(), "DIMENSION_LABELS", H5P_DEFAULT), H5Aclose);
    const Handle type = h5::text_type();
    std::vector<char*> given(axes.size());
    if (attribute.id() < 0 || n_elements(attribute) != static_cast<hssize_t>(given.size()) ||
        H5Aread(attribute.id(), type.id(), given.data()) < 0)
      refuse(path + " has not one label for each axis");
    bool is_same = true;
    for (std::size_t i = 0; i < axes.size(); ++i)
      is_same = is_same && given[i] != nullptr && axes[i] == given[i];
    const Handle space(H5Aget_space(attribute.id()), H5Sclose);
    H5Dvlen_reclaim(type.id(), space.id(), H5P_DEFAULT, given.data());
    if (!is_same) refuse(path + " has other labels than the manifest says");
  }

 private:
  static hssize_t n_elements(const Handle& attribute) {
    const Handle space(H5Aget_space(attribute.id()), H5Sclose);
    return H5Sget_simple_extent_npoints(space.id());
  }

  Handle open_attribute(const char* name) const {
    Handle attribute(H5Aopen_by_name(file_.id(), "/", name, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    if (attribute.id() < 0) refuse(std::string("has no ") + name);
    return attribute;
  }

  // Through hard links only: others lead out of the file.
  Handle open_dataset(const std::string& path) const {
    for (auto slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
      H5L_info_t link{};
      if (H5Lget_info(file_.id(), path.substr(0, slash).c_str(), &link, H5P_DEFAULT) < 0 ||
          link.type != H5L_TYPE_HARD)
        refuse(path + " is missing, or a link to elsewhere");
      if (slash == path.npos) break;
    }
    Handle dataset(H5Dopen2(file_.id(), path.c_str(), H5P_DEFAULT), H5Dclose);
    if (dataset.id() < 0) refuse(path + " is no dataset");
    return dataset;
  }

  std::string path_;
  h5::Storage& storage_;
  Handle file_;
};

Places parse_places(const File& file, const Manifest& manifest, std::uint64_t shard) {
  const auto lock = h5::lock();
  h5::FileStorage storage(file);
  const Parser parser(file, storage);
  const Rows rows = rows_of_shard(manifest, shard);
  parser.want_text("store", sha256_hex(to_text(manifest)));
  parser.want_number("schema", kSchema);
  parser.want_number("shard", shard);
  parser.want_number("first_row", rows.first);
  parser.want_number("n_rows", rows.n);
  Places places;
  for (const Dataset& dataset : datasets_of(manifest)) {
    const std::uint64_t n = n_entries(dataset, rows.n);
    places.data.push_back(parser.place_of(dataset.path, h5::type_of(dataset.dtype).id(),
                                          h5::shape_of(dataset, n), n * dataset.row_bytes));
    parser.want_labels(dataset.path, axes_of(dataset));
    const std::uint64_t blocks = n_blocks(dataset, rows.n);
    places.checksums.push_back(parser.place_of("/checksums" + dataset.path, H5T_STD_U64LE, {blocks},
                                               blocks * sizeof(std::uint64_t)));
  }
  return places;
}

}  // namespace

Record record_of(const File& file, const Manifest& manifest, std::uint64_t shard) {
  const Rows rows = rows_of_shard(manifest, shard);
  const std::uint64_t n_bytes = file.size();
  return {.shard = shard,
          .first_row = rows.first,
          .n_rows = rows.n,
          .bytes = n_bytes,
          .hash = file_hash_hex(file, n_bytes)};
}

bool has_bytes_of(const File& file, const Skeleton& skeleton) {
  if (file.size() != skeleton.file_bytes) return false;
  std::vector<std::byte> found;
  return std::ranges::all_of(skeleton.extents, [&](const auto& extent) {
    found.resize(extent.second.size());
    return file.pread(extent.first, found) == found.size() && found == extent.second;
  });
}

ShardFile open_shard(Io& io, const std::filesystem::path& path, const Manifest& manifest,
                     const Record& record, Trust trust) {
  ShardFile opened{.file = io.open(path, OpenMode::kRead), .n_rows = record.n_rows, .places = {}};
  Skeleton skeleton = make_skeleton(manifest, record.shard);
  if (has_bytes_of(*opened.file, skeleton)) {
    opened.places = std::move(skeleton.places);
    return opened;
  }
  const std::string what = path.string() +
                           ": its metadata is not what this bezel writes for shard " +
                           std::to_string(record.shard) + " of this store";
  if (trust == Trust::kOwnBytesOnly) throw StoreError(what);
  if (opened.file->size() != record.bytes ||
      file_hash_hex(*opened.file, record.bytes) != record.hash)
    throw StoreError(what + ", nor what was sealed. `bezel store check` tells more");
  opened.places = parse_places(*opened.file, manifest, record.shard);
  return opened;
}

}  // namespace bezel::store
