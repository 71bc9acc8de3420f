// HDF5's handles as values: closed when they go, and every failure a FormatError that says where.
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>
#include <xtensor/xarray.hpp>

namespace bezel::verify::h5 {

/// An id with the function that closes it.
class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle() = default;
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
  hid_t id_ = -1;
  Close close_ = nullptr;
};

/// A file that is read. Paths in it: "/cases/prose/tokens".
class File {
 public:
  /// Throws FormatError for what HDF5 cannot read.
  explicit File(const std::filesystem::path& path);

  bool contains(const std::string& path) const;
  /// The members of a group, in the order in which they were made.
  std::vector<std::string> members(const std::string& group) const;
  /// Lengths of a dataset's axes; none for a scalar.
  std::vector<std::size_t> shape(const std::string& dataset) const;
  bool is_integer(const std::string& dataset) const;

  /// A whole dataset. Throws FormatError when it is absent, or of another kind of number, and for
  /// one that claims more bytes than the file has.
  template <class Number>
  xt::xarray<Number> read(const std::string& dataset) const;
  std::vector<std::string> read_texts(const std::string& dataset) const;

  bool has_attribute(const std::string& object, const std::string& name) const;
  std::string text_attribute(const std::string& object, const std::string& name) const;
  std::vector<std::string> texts_attribute(const std::string& object,
                                           const std::string& name) const;
  std::int64_t integer_attribute(const std::string& object, const std::string& name) const;
  double number_attribute(const std::string& object, const std::string& name) const;
  std::vector<std::int64_t> integers_attribute(const std::string& object,
                                               const std::string& name) const;

 private:
  Handle open_dataset(const std::string& path) const;
  Handle open_attribute(const std::string& object, const std::string& name) const;
  [[noreturn]] void refuse(const std::string& place, const std::string& why) const;

  std::filesystem::path path_;
  std::uintmax_t n_bytes_ = 0;
  Handle file_;
};

}  // namespace bezel::verify::h5
