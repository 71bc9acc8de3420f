#include "bezel/hooks/store/shard_file.h"

#include <algorithm>
#include <utility>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/h5_parser.h"
#include "bezel/hooks/store/hash.h"

namespace bezel::store {
namespace {

using h5::Handle;
using h5::Parser;

std::string shown(const Attribute& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  const auto* number = std::get_if<std::int64_t>(&value);
  return number == nullptr ? "neither text nor whole number" : std::to_string(*number);
}

void want_identity(const Parser& parser, const Manifest& manifest, std::uint64_t shard) {
  for (const auto& [name, wanted] : identity_of(manifest, shard)) {
    const Attribute found = parser.attribute_of("it", parser.root(), name);
    if (found != wanted)
      parser.refuse("its " + name + " is " + shown(found) + "; wanted " + shown(wanted));
  }
}

// The place of a dataset of this type and shape.
std::uint64_t want_dataset(const Parser& parser, const std::string& path, const Handle& type,
                           const std::vector<hsize_t>& shape, std::uint64_t n_bytes) {
  const Handle dataset = parser.open_dataset(path);
  const Handle stored(H5Dget_type(dataset.id()), H5Tclose);
  if (H5Tequal(stored.id(), type.id()) <= 0)
    parser.refuse(path + " has another type than the manifest says");
  if (parser.shape_of(path, dataset) != shape)
    parser.refuse(path + " has another shape than the manifest says");
  return parser.place_of(path, dataset, n_bytes);
}

void want_labels(const Parser& parser, const Dataset& dataset) {
  const auto found = parser.labels_of(dataset.path, parser.open_dataset(dataset.path));
  if (found.size() != axes_of(dataset).size())
    parser.refuse(dataset.path + " has not one label for each axis");
  if (found != axes_of(dataset))
    parser.refuse(dataset.path + " has other labels than the manifest says");
}

Places parse_places(const File& file, const Manifest& manifest, std::uint64_t shard) {
  const auto lock = h5::lock();
  h5::FileStorage storage(file, file.size());
  const Parser parser(storage);
  want_identity(parser, manifest, shard);
  const Rows rows = rows_of_shard(manifest, shard);
  Places places;
  for (const Dataset& dataset : datasets_of(manifest)) {
    const std::uint64_t n = n_entries(dataset, rows.n), blocks = n_blocks(dataset, rows.n);
    places.data.push_back(want_dataset(parser, dataset.path, h5::type_of(dataset.dtype),
                                       h5::shape_of(dataset, n), n * dataset.row_bytes));
    want_labels(parser, dataset);
    places.checksums.push_back(want_dataset(parser, "/checksums" + dataset.path,
                                            h5::type_of(DType::kUInt64), {blocks},
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
