// Reads what sealed_writer.h writes. The file is not trusted: HDF5 sees it only after its seal was
// compared, all that it says is looked at once, at the start, and then no HDF5 is needed.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "bezel/hooks/store/attribute.h"
#include "bezel/hooks/store/dtype.h"
#include "bezel/hooks/store/io.h"
#include "bezel/hooks/store/seal.h"

namespace bezel::store {

/// Numbers in a sealed file. They lie in it, and all together are no larger than it.
struct SealedDataset {
  DType dtype = DType::kFloat32;
  std::vector<std::uint64_t> shape = {};  // none for one number
  std::vector<std::string> axes = {};     // DIMENSION_LABELS, whatever they are
  std::uint64_t place = 0, n_bytes = 0;
};

class SealedFile {
 public:
  struct Group {
    std::vector<std::string> members;  // as the group keeps them: in their order, or by name
  };
  struct Texts {
    std::vector<std::string> texts;
  };
  struct Object {
    std::map<std::string, Attribute> attributes;
    std::variant<Group, SealedDataset, Texts> holds;
  };
  /// By path: "/", "/cases/prose". Two names of one dataset have one object.
  using Objects = std::map<std::string, std::shared_ptr<const Object>>;

  /// Throws StoreError for a file without a right seal, and for one that holds what the writer
  /// never makes.
  SealedFile(Io& io, const std::filesystem::path& path, SealedKind kind);

  const std::filesystem::path& path() const { return file_->path(); }
  bool contains(const std::string& path) const { return objects_.contains(path); }

  /// Each throws StoreError where there is no such thing.
  const std::vector<std::string>& members(const std::string& group) const;
  const SealedDataset& dataset(const std::string& path) const;
  const std::vector<std::string>& texts(const std::string& path) const;
  const std::map<std::string, Attribute>& attributes(const std::string& path) const;
  template <class Kind>
  const Kind& attribute(const std::string& path, const std::string& name) const;

  /// All its bytes. Safe in threads.
  void read(const SealedDataset& dataset, std::span<std::byte> into) const;

  /// Throws StoreError: that the file is not what was wanted, and why.
  [[noreturn]] void refuse(const std::string& why) const;

 private:
  const Object& object(const std::string& path) const;
  template <class Kind>
  const Kind& held(const std::string& path, const char* what) const;

  std::unique_ptr<File> file_;
  SealedKind kind_;
  Objects objects_;
};

}  // namespace bezel::store
