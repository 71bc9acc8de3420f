#include "bezel/hooks/store/io.h"

#include <cerrno>
#include <system_error>

#include "bezel/hooks/error.h"

namespace bezel::store {
namespace {

std::string advice_for(int code) {
  if (code == ENOSPC || code == EDQUOT) return "; free some space there, then resume";
  if (code == EIO) return "; look at the disk, then resume";
  if (code == EACCES || code == EPERM || code == EROFS) return "; may this user write there?";
  return "";
}

}  // namespace

std::size_t ReadOnlyFile::pwrite(std::uint64_t, std::span<const std::byte>) { refuse(); }
void ReadOnlyFile::allocate(std::uint64_t) { refuse(); }
void ReadOnlyFile::truncate(std::uint64_t) { refuse(); }
void ReadOnlyFile::sync() { refuse(); }
void ReadOnlyFile::make_read_only() { refuse(); }
bool ReadOnlyFile::try_lock() { refuse(); }
void ReadOnlyFile::refuse() const { throw StoreError(path().string() + ": is only read"); }

void throw_io_error(const std::filesystem::path& path, const std::string& operation, int code) {
  throw StoreError(path.string() + ": " + operation + ": " + std::generic_category().message(code) +
                   advice_for(code));
}

void write_all(File& file, std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::size_t n = file.pwrite(offset, bytes);
    if (n == 0) throw_io_error(file.path(), "write", EIO);
    offset += n;
    bytes = bytes.subspan(n);
  }
}

void read_all(const File& file, std::uint64_t offset, std::span<std::byte> into) {
  if (const std::size_t n = file.pread(offset, into); n != into.size()) {
    throw StoreError(file.path().string() + ": ends at byte " + std::to_string(offset + n) +
                     "; wanted " + std::to_string(into.size()) + " bytes at " +
                     std::to_string(offset) + ": was it cut?");
  }
}

std::string read_text(Io& io, const std::filesystem::path& path, std::uint64_t max_bytes) {
  const auto file = io.open(path, OpenMode::kRead);
  const std::uint64_t n_bytes = file->size();
  if (n_bytes > max_bytes) {
    throw StoreError(path.string() + ": has " + std::to_string(n_bytes) + " bytes; at most " +
                     std::to_string(max_bytes) + " are read");
  }
  std::string text(n_bytes, '\0');
  read_all(*file, 0, std::as_writable_bytes(std::span(text)));
  return text;
}

}  // namespace bezel::store
