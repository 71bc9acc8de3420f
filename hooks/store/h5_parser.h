// Looks into a file with HDF5's own reader, and believes nothing: only hard links are followed,
// what is stored must lie inside the file, in one piece. Only for this folder's .cpp files.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "bezel/hooks/store/attribute.h"
#include "bezel/hooks/store/h5.h"

namespace bezel::store::h5 {

/// Each call throws as h5::fail() does. `path` is an object's path in the file, for messages.
class Parser {
 public:
  explicit Parser(Storage& storage) : storage_(storage), file_(open_file(storage)) {}

  [[noreturn]] void refuse(const std::string& why) const {
    fail(storage_, storage_.name + ": " + why);
  }
  Handle root() const;
  Handle open_dataset(const std::string& path) const;
  Handle open_at(const std::string& path, haddr_t address) const;

  struct Member {
    std::string name;
    haddr_t address = HADDR_UNDEF;
    std::int64_t order = 0;  // in which it was made, where the group kept that
  };
  /// In the order in which they were made, where the group kept it; else by name.
  std::vector<Member> members_of(const std::string& path, const Handle& group) const;

  std::vector<hsize_t> shape_of(const std::string& path, const Handle& dataset) const;
  /// Where the bytes of a dataset are.
  std::uint64_t place_of(const std::string& path, const Handle& dataset,
                         std::uint64_t n_bytes) const;
  /// Of a dataset of texts with one axis; together they are no longer than the file.
  std::vector<std::string> texts_of(const std::string& path, const Handle& dataset) const;

  /// DIMENSION_LABELS; none where it is missing.
  std::vector<std::string> labels_of(const std::string& path, const Handle& dataset) const;
  Attribute attribute_of(const std::string& path, const Handle& object,
                         const std::string& name) const;
  /// All but the labels.
  std::map<std::string, Attribute> attributes_of(const std::string& path,
                                                 const Handle& object) const;

 private:
  Storage& storage_;
  Handle file_;
};

}  // namespace bezel::store::h5
