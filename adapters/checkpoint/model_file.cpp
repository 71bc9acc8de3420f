#include "bezel/adapters/checkpoint/model_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <system_error>
#include <utility>

#include "bezel/adapters/checkpoint/text.h"
#include "bezel/hooks/error.h"

namespace bezel::checkpoint {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse_unreadable(const fs::path& path, const std::string& reason) {
  throw CheckpointError(show(path) + ": found nothing that can be read (" + reason +
                        "), expected a file");
}
[[noreturn]] void refuse_unreadable(const fs::path& path, int error) {
  refuse_unreadable(path, std::generic_category().message(error));
}

// Both paths are canonical.
bool is_inside(const fs::path& file, const fs::path& folder) {
  const auto [rest, _] = std::mismatch(folder.begin(), folder.end(), file.begin(), file.end());
  return rest == folder.end();
}

// models--x--y/blobs, if `folder` (canonical) is a snapshot of that cache entry or inside one.
std::optional<fs::path> blobs_of(const fs::path& folder) {
  for (fs::path at = folder; at.has_relative_path(); at = at.parent_path()) {
    const fs::path entry = at.parent_path().parent_path();
    if (at.parent_path().filename() == "snapshots" &&
        entry.filename().native().starts_with("models--"))
      return entry / "blobs";
  }
  return std::nullopt;
}

// The canonical path of folder / name, inside the folder or its cache.
fs::path resolve(const fs::path& folder, const std::string& name) {
  const fs::path file = folder / name;
  std::error_code error;
  const fs::path home = fs::canonical(folder, error);
  if (error) refuse_unreadable(file, error.message());
  fs::path target = fs::canonical(file, error);
  if (error) {
    std::error_code no_link;
    const fs::path missing = fs::read_symlink(file, no_link);
    if (no_link) refuse_unreadable(file, error.message());
    throw CheckpointError(show(file) + ": found a link to " + show(missing) + " (" +
                          error.message() + "), expected a file; is the download complete?");
  }
  const auto blobs = blobs_of(home);
  if (is_inside(target, home) || (blobs && is_inside(target, *blobs))) return target;
  throw FormatError(show(file) + ": found a link to " + show(target) +
                    ", expected one that stays in the model folder or in its Hugging Face cache's "
                    "blobs; copy the file here, or open the folder it lies in");
}

}  // namespace

bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\0", 2)) == name.npos;
}

ModelFile ModelFile::open(const fs::path& folder, const std::string& name) {
  if (!is_plain_file_name(name))
    throw FormatError(show(folder) + ": found " + quote(name) + ", expected a plain file name");
  const fs::path target = resolve(folder, name);
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  const int descriptor =
      ::open(target.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
  if (descriptor < 0) refuse_unreadable(folder / name, errno);
  return ModelFile(folder / name, descriptor);
}

ModelFile ModelFile::open(const fs::path& file) {
  const fs::path folder = file.parent_path();
  return open(folder.empty() ? fs::path(".") : folder, file.filename().native());
}

ModelFile::ModelFile(fs::path path, int descriptor)
    : path_(std::move(path)), descriptor_(descriptor) {
  try {
    size_ = measure();
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
}

ModelFile::ModelFile(ModelFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_) {}

ModelFile::~ModelFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::uint64_t ModelFile::measure() const {
  struct stat status = {};
  if (::fstat(descriptor_, &status) != 0) refuse_unreadable(path_, errno);
  if (S_ISREG(status.st_mode)) return static_cast<std::uint64_t>(status.st_size);
  const char* kind = S_ISDIR(status.st_mode)    ? "a folder"
                     : S_ISFIFO(status.st_mode) ? "a FIFO"
                                                : "a device";
  throw FormatError(show(path_) + ": found " + kind + ", expected a regular file");
}

void ModelFile::read_at(std::uint64_t offset, std::span<std::byte> destination) const {
  if (const std::uint64_t now = measure(); now != size_)
    throw FormatError(show(path_) + ": found " + std::to_string(now) + " bytes, expected the " +
                      std::to_string(size_) + " it had when it was opened; was it rewritten?");
  if (offset > size_ || destination.size() > size_ - offset)
    throw FormatError(show(path_) + ": found " + std::to_string(size_) + " bytes, expected " +
                      std::to_string(destination.size()) + " from byte " + std::to_string(offset) +
                      " on");
  while (!destination.empty()) {
    const ssize_t n =
        ::pread(descriptor_, destination.data(), destination.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) refuse_unreadable(path_, errno);
    if (n == 0)  // cut after measure()
      throw FormatError(show(path_) + ": found its end at byte " + std::to_string(offset) +
                        ", expected " + std::to_string(destination.size()) + " bytes more");
    destination = destination.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

}  // namespace bezel::checkpoint
