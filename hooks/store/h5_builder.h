// Makes groups, datasets and attributes in one new HDF5 file, so that equal contents are equal
// bytes. Only for this folder's .cpp files.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "bezel/hooks/store/attribute.h"
#include "bezel/hooks/store/h5.h"

namespace bezel::store::h5 {

/// In which order a group tells its members.
enum class Order : std::uint8_t { kByName, kAsMade };

/// Each call throws as h5::fail() does.
class Builder {
 public:
  Builder(Storage& storage, hid_t file) : storage_(storage), file_(file) {}

  void group(const std::string& path, Order order = Order::kByName) const;
  /// Contiguous; its bytes are reserved, not written. No lengths: one number.
  Handle dataset(const std::string& path, hid_t type, const std::vector<hsize_t>& shape) const;
  /// As `creation` (H5P_DATASET_CREATE) says.
  Handle dataset(const std::string& path, hid_t type, const std::vector<hsize_t>& shape,
                 hid_t creation) const;
  /// Texts of any length, and these are written.
  void texts(const std::string& path, const std::vector<std::string>& texts) const;
  /// A second name of what has one.
  void link(const std::string& path, const std::string& of) const;
  /// Where a dataset's bytes begin in the file.
  std::uint64_t place_of(const Handle& dataset) const;

  /// Of the object with this path; "/" is the root.
  void attribute(const std::string& path, const std::string& name, const Attribute& value) const;
  /// DIMENSION_LABELS, where there are any, and the attribute dtype for bfloat16.
  void labels(const std::string& path, const std::vector<std::string>& axes, DType dtype) const;

 private:
  void attribute(const std::string& path, const std::string& name, hid_t type, hid_t space,
                 const void* value) const;

  Storage& storage_;
  hid_t file_;
};

/// A whole file in memory, of what `fill` puts into it. Takes h5::lock().
void make_file(SparseStorage& storage, const std::string& what, Use use,
               const std::function<void(const Builder&)>& fill);

}  // namespace bezel::store::h5
