// Writes a file that stands alone: HDF5 with the datasets of a shard, and a seal (seal.h) instead
// of a record. A reader sees the old file of that name or all of the new one. Equal contents are
// equal bytes.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "bezel/hooks/store/attribute.h"
#include "bezel/hooks/store/dtype.h"
#include "bezel/hooks/store/io.h"

namespace bezel::store {

using Attributes = std::vector<std::pair<std::string, Attribute>>;

/// Bytes, and what keeps them where they are.
struct OwnedBytes {
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner = nullptr;
};

/// In the order in which they are made. Paths: "/cases/prose"; what stands before the last slash
/// was made before.
struct SealedGroup {
  std::string path;
  Attributes attributes = {};
  bool keeps_order = false;  // of its members; else they are sorted by name
};
struct SealedValues {
  std::string path;
  DType dtype = DType::kFloat32;
  std::vector<std::uint64_t> shape = {};  // none for one number
  std::vector<std::string> axes = {};     // one for each, or none
  Attributes attributes = {};
  std::function<OwnedBytes()> bytes;  // asked for once, when it is their turn to be written
};
struct SealedTexts {
  std::string path;
  std::vector<std::string> texts;
};
struct SealedLink {  // a second name
  std::string path, of;
};
using SealedEntry = std::variant<SealedGroup, SealedValues, SealedTexts, SealedLink>;

/// Throws StoreError for a file that could not be written, and what `bytes` throws; then the old
/// file is there, and nothing else is left behind.
void write_sealed(Io& io, const std::filesystem::path& path, std::span<const SealedEntry> entries);

}  // namespace bezel::store
