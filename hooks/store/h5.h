// HDF5 without files of its own: it reads and writes through a Storage, so that its every operation
// is one of io.h's (or of memory), and a failure there comes back as the error it was. Only for
// this folder's .cpp files.
#pragma once

#include <hdf5.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bezel/hooks/store/io.h"
#include "bezel/hooks/store/layout.h"

namespace bezel::store::h5 {

/// An id with the function that closes it.
class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle(hid_t id, Close close) : id_(id), close_(close) {}
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  hid_t id() const { return id_; }

 private:
  hid_t id_;
  Close close_;
};

/// Where the bytes are.
class Storage {
 public:
  Storage() = default;
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  Storage(Storage&&) = delete;
  Storage& operator=(Storage&&) = delete;
  virtual ~Storage() = default;
  virtual void read(std::uint64_t offset, std::span<std::byte> into) = 0;
  virtual void write(std::uint64_t offset, std::span<const std::byte> bytes) = 0;
  virtual std::uint64_t size() const = 0;
  virtual void resize(std::uint64_t n_bytes) = 0;

  std::string name;            // of the file, for messages
  std::exception_ptr failure;  // what read() or write() threw, while HDF5 unwinds
};

/// The first bytes of a file, which are only read.
class FileStorage final : public Storage {
 public:
  FileStorage(const File& file, std::uint64_t n_bytes) : file_(file), n_bytes_(n_bytes) {
    name = file.path().string();
  }
  void read(std::uint64_t offset, std::span<std::byte> into) override;
  void write(std::uint64_t offset, std::span<const std::byte> bytes) override;
  std::uint64_t size() const override { return n_bytes_; }
  void resize(std::uint64_t) override {}

 private:
  const File& file_;
  std::uint64_t n_bytes_;
};

/// The bytes that HDF5 writes, kept where it wrote them; what it did not write costs nothing.
class SparseStorage final : public Storage {
 public:
  using Extents = std::map<std::uint64_t, std::vector<std::byte>>;
  void read(std::uint64_t offset, std::span<std::byte> into) override;
  void write(std::uint64_t offset, std::span<const std::byte> bytes) override;
  std::uint64_t size() const override { return n_bytes_; }
  void resize(std::uint64_t n_bytes) override { n_bytes_ = n_bytes; }
  const Extents& extents() const { return extents_; }

 private:
  Extents extents_;  // by offset; they neither touch nor overlap
  std::uint64_t n_bytes_ = 0;
};

/// HDF5 takes one caller at a time: held from the first handle to the last.
std::unique_lock<std::mutex> lock();

/// What a file is opened for. In one that is made, datasets of 4 KiB and more each stand on pages
/// of their own; or only those of 64 KiB and more, and all bytes as HDF5's usual driver packs them.
enum class Use : std::uint8_t { kRead, kMakePages, kMakePacked };

/// Opens or makes the file that a storage holds. Throws what the storage threw, or StoreError.
Handle open_file(Storage& storage);
Handle create_file(Storage& storage, const std::string& what, Use use);

/// Throws the storage's own error if there is one, else StoreError with `what` and HDF5's text.
[[noreturn]] void fail(const Storage& storage, const std::string& what);

Handle text_type();           // variable length, UTF-8
Handle type_of(DType dtype);  // as stored: bfloat16 is the float 1-8-7
/// [n_entries, …the dataset's other axes…]
std::vector<hsize_t> shape_of(const Dataset& dataset, std::uint64_t n_entries);

}  // namespace bezel::store::h5
