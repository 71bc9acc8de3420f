// Makes groups, datasets and attributes in one new HDF5 file, so that equal contents are equal
// bytes. Only for this folder's .cpp files.
#pragma once

#include <string>
#include <vector>

#include "bezel/hooks/store/h5.h"

namespace bezel::store::h5 {

/// Each call throws as h5::fail() does.
class Builder {
 public:
  Builder(Storage& storage, hid_t file) : storage_(storage), file_(file) {}

  void group(const std::string& path) const;
  /// Contiguous; its bytes are reserved, not written.
  Handle dataset(const std::string& path, hid_t type, const std::vector<hsize_t>& shape) const;
  /// As `creation` (H5P_DATASET_CREATE) says.
  Handle dataset(const std::string& path, hid_t type, const std::vector<hsize_t>& shape,
                 hid_t creation) const;
  /// Where a dataset's bytes begin in the file.
  std::uint64_t place_of(const Handle& dataset) const;

  void number(hid_t object, const char* name, std::uint64_t number) const;
  void text(hid_t object, const char* name, const std::string& text) const;
  /// DIMENSION_LABELS, and the attribute dtype for bfloat16.
  void labels(hid_t made, const Dataset& dataset) const;

 private:
  void attribute(hid_t object, const char* name, hid_t type, hid_t space, const void* value) const;

  Storage& storage_;
  hid_t file_;
};

}  // namespace bezel::store::h5
