#include "bezel/hooks/store/h5.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/h5_heap.h"

namespace bezel::store::h5 {
namespace {

// What HDF5 knows of an open file: its own part first.
struct Driver {
  H5FD_t base;
  Storage* storage;
  Use use;
  haddr_t end_of_addresses;
};
// What an access list carries to the driver.
struct Wanted {
  Storage* storage;
  Use use;
};
Driver& driver_of(H5FD_t* file) { return *reinterpret_cast<Driver*>(file); }
const Driver& driver_of(const H5FD_t* file) { return *reinterpret_cast<const Driver*>(file); }

// No exception may cross HDF5's C code: it waits in the storage.
herr_t guarded(Storage& storage, const std::function<void()>& action) {
  try {
    action();
    return 0;
  } catch (...) {
    storage.failure = std::current_exception();
    return -1;
  }
}

H5FD_t* open_driver(const char*, unsigned, hid_t access, haddr_t) {
  auto driver = std::make_unique<Driver>();
  const auto& wanted = *static_cast<const Wanted*>(H5Pget_driver_info(access));
  driver->storage = wanted.storage;
  driver->use = wanted.use;
  return &driver.release()->base;  // close_driver() takes it back
}

herr_t close_driver(H5FD_t* file) {
  const std::unique_ptr<Driver> driver(&driver_of(file));
  return 0;
}

herr_t query(const H5FD_t* file, unsigned long* flags) {
  *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA |
           H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
  if (file != nullptr && driver_of(file).use == Use::kMakePacked)
    *flags |= H5FD_FEAT_AGGREGATE_SMALLDATA;
  return 0;
}

// Which kinds of bytes may stand in the gaps that others left.
herr_t get_type_map(const H5FD_t* file, H5FD_mem_t* map) {
  constexpr std::array<H5FD_mem_t, H5FD_MEM_NTYPES> kApart = H5FD_FLMAP_DEFAULT,
                                                    kTogether = H5FD_FLMAP_DICHOTOMY;
  std::ranges::copy(driver_of(file).use == Use::kMakePacked ? kTogether : kApart, map);
  return 0;
}

haddr_t get_eoa(const H5FD_t* file, H5FD_mem_t) { return driver_of(file).end_of_addresses; }
haddr_t get_eof(const H5FD_t* file, H5FD_mem_t) { return driver_of(file).storage->size(); }
herr_t set_eoa(H5FD_t* file, H5FD_mem_t, haddr_t end) {
  driver_of(file).end_of_addresses = end;
  return 0;
}

herr_t read(H5FD_t* file, H5FD_mem_t type, hid_t, haddr_t offset, std::size_t n, void* into) {
  Storage& storage = *driver_of(file).storage;
  return guarded(storage, [&] {
    const std::span bytes(static_cast<std::byte*>(into), n);
    storage.read(offset, bytes);
    // Values are not read through HDF5: what it reads as raw bytes is a heap, mostly of texts.
    if (type == H5FD_MEM_DRAW && driver_of(file).use == Use::kRead && is_collection(bytes))
      objects_in(storage, bytes);
  });
}

herr_t write(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t offset, std::size_t n, const void* from) {
  Storage& storage = *driver_of(file).storage;
  return guarded(storage, [&] { storage.write(offset, {static_cast<const std::byte*>(from), n}); });
}

herr_t truncate(H5FD_t* file, hid_t, hbool_t) {
  Storage& storage = *driver_of(file).storage;
  return guarded(storage, [&] { storage.resize(driver_of(file).end_of_addresses); });
}

H5FD_class_t make_class() {
  constexpr haddr_t kMaxAddress = haddr_t{1} << 62;
  H5FD_class_t driver{};
  driver.name = "bezel";
  driver.maxaddr = kMaxAddress;
  driver.fc_degree = H5F_CLOSE_STRONG;
  driver.fapl_size = sizeof(Wanted);
  driver.open = open_driver;
  driver.close = close_driver;
  driver.query = query;
  driver.get_type_map = get_type_map;
  driver.get_eoa = get_eoa;
  driver.set_eoa = set_eoa;
  driver.get_eof = get_eof;
  driver.read = read;
  driver.write = write;
  driver.truncate = truncate;
  return driver;
}

hid_t driver_id() {
  static const hid_t kId = [] {
    H5dont_atexit();
    const H5FD_class_t driver = make_class();
    return H5FDregister(&driver);
  }();
  return kId;
}

Handle access_to(Storage& storage, Use use) {
  constexpr hsize_t kPageBytes = 4096, kPagesFromBytes = hsize_t{1} << 16;
  const Wanted wanted{&storage, use};
  const hid_t driver = driver_id();             // first of all: it says H5dont_atexit()
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // of this thread: our errors carry the text
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  if (H5Pset_driver(access.id(), driver, &wanted) < 0 ||
      H5Pset_alignment(access.id(), use == Use::kMakePacked ? kPagesFromBytes : kPageBytes,
                       kPageBytes) < 0 ||
      H5Pset_libver_bounds(access.id(), H5F_LIBVER_V110, H5F_LIBVER_V110) < 0)
    fail(storage, "HDF5 takes no driver");
  return access;
}

herr_t first_message(unsigned, const H5E_error2_t* error, void* into) {
  auto& text = *static_cast<std::string*>(into);
  if (text.empty() && error->desc != nullptr) text = error->desc;
  return 0;
}

}  // namespace

std::unique_lock<std::mutex> lock() {
  static std::mutex mutex;
  return std::unique_lock(mutex);
}

void fail(const Storage& storage, const std::string& what) {
  if (storage.failure) std::rethrow_exception(storage.failure);
  std::string reason;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, first_message, &reason);
  throw StoreError(what + (reason.empty() ? "" : " (HDF5: " + reason + ")"));
}

Handle open_file(Storage& storage) {
  Handle file(H5Fopen("store", H5F_ACC_RDONLY, access_to(storage, Use::kRead).id()), H5Fclose);
  if (file.id() < 0) fail(storage, storage.name + ": is not HDF5");
  return file;
}

Handle create_file(Storage& storage, const std::string& what, Use use) {
  const Handle access = access_to(storage, use);
  const Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation.id(),
                         false);  // of the root group: equal contents are equal bytes
  Handle file(H5Fcreate("store", H5F_ACC_TRUNC, creation.id(), access.id()), H5Fclose);
  if (file.id() < 0) fail(storage, what + ": cannot be made");
  return file;
}

Handle text_type() {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type.id(), H5T_VARIABLE);
  H5Tset_cset(type.id(), H5T_CSET_UTF8);
  return type;
}

Handle type_of(DType dtype) {
  const auto copy = [](hid_t type) { return Handle(H5Tcopy(type), H5Tclose); };
  const auto half = [&](std::size_t n_exponent, std::size_t bias) {  // float of 16 bits
    const std::size_t n_mantissa = 15 - n_exponent;
    Handle type = copy(H5T_IEEE_F32LE);
    H5Tset_fields(type.id(), 15, n_mantissa, n_exponent, 0, n_mantissa);
    H5Tset_size(type.id(), 2);
    H5Tset_ebias(type.id(), bias);
    return type;
  };
  switch (dtype) {
    case DType::kBFloat16:
      return half(8, 127);
    case DType::kFloat16:
      return half(5, 15);
    case DType::kFloat32:
      return copy(H5T_IEEE_F32LE);
    case DType::kFloat64:
      return copy(H5T_IEEE_F64LE);
    case DType::kUInt8:
      return copy(H5T_STD_U8LE);
    case DType::kUInt64:
      return copy(H5T_STD_U64LE);
    case DType::kInt8:
      return copy(H5T_STD_I8LE);
    case DType::kInt16:
      return copy(H5T_STD_I16LE);
    case DType::kInt32:
      return copy(H5T_STD_I32LE);
    case DType::kInt64:
      return copy(H5T_STD_I64LE);
  }
  throw StoreError("a dtype that bezel does not know");
}

std::vector<hsize_t> shape_of(const Dataset& dataset, std::uint64_t n_entries) {
  std::vector<hsize_t> shape = {n_entries};
  shape.insert(shape.end(), dataset.shape.begin(), dataset.shape.end());
  return shape;
}

void FileStorage::read(std::uint64_t offset, std::span<std::byte> into) {
  read_all(file_, offset, into);
}

void FileStorage::write(std::uint64_t, std::span<const std::byte>) {
  throw StoreError(file_.path().string() + ": HDF5 wants to write to a file that is only read");
}

void SparseStorage::read(std::uint64_t offset, std::span<std::byte> into) {
  std::ranges::fill(into, std::byte{0});
  const std::uint64_t end = offset + into.size();
  for (const auto& [first, bytes] : extents_) {
    const std::uint64_t from = std::max(first, offset), to = std::min(first + bytes.size(), end);
    if (from < to)
      std::memcpy(into.data() + (from - offset), bytes.data() + (from - first), to - from);
  }
}

void SparseStorage::write(std::uint64_t offset, std::span<const std::byte> bytes) {
  std::uint64_t first = offset, end = offset + bytes.size();
  n_bytes_ = std::max(n_bytes_, end);
  const auto is_near = [&](const auto& extent) {
    return extent.first <= end && extent.first + extent.second.size() >= first;
  };
  auto from = extents_.upper_bound(end);  // the last extent that can touch is the one before
  while (from != extents_.begin() && is_near(*std::prev(from))) {
    --from;
    first = std::min(first, from->first);
  }
  auto to = from;
  std::vector<std::byte> joined;
  for (; to != extents_.end() && is_near(*to); ++to) {
    joined.resize(std::max<std::uint64_t>(joined.size(), to->first + to->second.size() - first));
    std::ranges::copy(to->second, joined.begin() + static_cast<std::ptrdiff_t>(to->first - first));
  }
  joined.resize(std::max<std::uint64_t>(joined.size(), end - first));
  std::ranges::copy(bytes, joined.begin() + static_cast<std::ptrdiff_t>(offset - first));
  extents_.erase(from, to);
  extents_.emplace(first, std::move(joined));
}

}  // namespace bezel::store::h5
