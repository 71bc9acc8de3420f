#include "bezel/hooks/store/sealed_writer.h"

#include <unistd.h>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/h5_builder.h"
#include "bezel/hooks/store/seal.h"

namespace bezel::store {
namespace {

namespace fs = std::filesystem;

struct Place {
  const SealedValues* values = nullptr;
  std::uint64_t offset = 0, n_bytes = 0;
};

std::uint64_t n_bytes_of(const SealedValues& values) {
  std::uint64_t n_bytes = size_of(values.dtype);
  for (const std::uint64_t length : values.shape) n_bytes *= length;
  return n_bytes;
}

// Makes one entry, and notes where bytes are wanted.
class Maker {
 public:
  Maker(const h5::Builder& builder, std::vector<Place>& places)
      : builder_(builder), places_(places) {}

  void operator()(const SealedGroup& group) const {
    builder_.group(group.path, group.keeps_order ? h5::Order::kAsMade : h5::Order::kByName);
    add(group.path, group.attributes);
  }
  void operator()(const SealedValues& values) const {
    const h5::Handle made = builder_.dataset(values.path, h5::type_of(values.dtype).id(),
                                             {values.shape.begin(), values.shape.end()});
    builder_.labels(values.path, values.axes, values.dtype);
    add(values.path, values.attributes);
    if (const std::uint64_t n_bytes = n_bytes_of(values); n_bytes > 0)
      places_.push_back({&values, builder_.place_of(made), n_bytes});
  }
  void operator()(const SealedTexts& texts) const { builder_.texts(texts.path, texts.texts); }
  void operator()(const SealedLink& link) const { builder_.link(link.path, link.of); }

 private:
  void add(const std::string& path, const Attributes& attributes) const {
    for (const auto& [name, value] : attributes) builder_.attribute(path, name, value);
  }

  const h5::Builder& builder_;
  std::vector<Place>& places_;
};

void fill(File& file, const h5::SparseStorage& skeleton, const std::vector<Place>& places) {
  file.allocate(skeleton.size() + kSealBytes);
  for (const auto& [offset, bytes] : skeleton.extents()) write_all(file, offset, bytes);
  for (const auto& [values, offset, n_bytes] : places) {
    const OwnedBytes owned = values->bytes();
    if (owned.bytes.size() != n_bytes)
      throw ArgumentError(values->path + ": " + std::to_string(owned.bytes.size()) +
                          " bytes; wanted " + std::to_string(n_bytes));
    write_all(file, offset, owned.bytes);
  }
  add_seal(file, skeleton.size());
  file.sync();
}

void write(Io& io, const fs::path& path, std::span<const SealedEntry> entries) {
  h5::SparseStorage skeleton;
  std::vector<Place> places;
  h5::make_file(skeleton, path.string(), h5::Use::kMakePacked, [&](const h5::Builder& builder) {
    for (const SealedEntry& entry : entries) std::visit(Maker(builder, places), entry);
  });
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const fs::path partial =
      folder / ("." + path.filename().string() + "." + std::to_string(::gettid()) + ".partial");
  if (io.exists(partial)) io.unlink(partial);  // of a thread with this number that died
  auto file = io.open(partial, OpenMode::kCreate);
  try {
    fill(*file, skeleton, places);
    file.reset();
    io.rename_over(partial, path);
  } catch (...) {
    file.reset();
    try {
      io.unlink(partial);
    } catch (const StoreError&) {  // another error is on its way
    }
    throw;
  }
  io.sync_folder(folder);
}

}  // namespace

void write_sealed(Io& io, const fs::path& path, std::span<const SealedEntry> entries) {
  try {
    write(io, path, entries);
  } catch (const StoreError& error) {
    throw StoreError(path.string() + " could not be written: " + error.what());
  }
}

}  // namespace bezel::store
