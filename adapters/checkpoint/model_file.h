// One regular file of a model folder, open for positioned reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace bezel::checkpoint {

/// True for a name that cannot lead out of its folder: not empty, "." or "..", no '/', no NUL.
bool is_plain_file_name(std::string_view name);

class ModelFile {
 public:
  /// Opens `name`, a plain file name, in `folder`. A link is followed only if it ends inside the
  /// folder or, for a snapshot in a Hugging Face cache (models--x--y/snapshots/<revision>), inside
  /// that model's blobs/. FIFOs, devices and folders are refused.
  static ModelFile open(const std::filesystem::path& folder, const std::string& name);
  /// The same for a path: its last part is the name, the rest the folder.
  static ModelFile open(const std::filesystem::path& file);

  ModelFile(ModelFile&& other) noexcept;
  ModelFile& operator=(ModelFile&&) = delete;
  ModelFile(const ModelFile&) = delete;
  ModelFile& operator=(const ModelFile&) = delete;
  ~ModelFile();

  /// As it was asked for: folder / name.
  const std::filesystem::path& path() const { return path_; }
  /// Bytes, when the file was opened.
  std::uint64_t size() const { return size_; }

  /// Fills `destination` from `offset` on, or throws FormatError if the file ends before, or is no
  /// longer as long as when it was opened. Threads may read at the same time.
  void read_at(std::uint64_t offset, std::span<std::byte> destination) const;

 private:
  ModelFile(std::filesystem::path path, int descriptor);
  std::uint64_t measure() const;  // size now; refuses what is not a regular file

  std::filesystem::path path_;
  int descriptor_;
  std::uint64_t size_ = 0;
};

}  // namespace bezel::checkpoint
