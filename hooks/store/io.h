// Every file operation of the store goes through here, so that a test can make each one fail.
//
// What goes wrong is a StoreError that names the file, the operation and the reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace bezel::store {

/// An open file; closed (and its lock given back) when it goes.
class File {
 public:
  File() = default;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  File(File&&) = delete;
  File& operator=(File&&) = delete;
  virtual ~File() = default;

  virtual const std::filesystem::path& path() const = 0;
  virtual std::uint64_t size() const = 0;  // bytes
  /// Bytes read: fewer than asked for only at the end of the file. Safe in threads.
  virtual std::size_t pread(std::uint64_t offset, std::span<std::byte> into) const = 0;
  /// Bytes taken, which may be fewer than given: see write_all(). Safe in threads.
  virtual std::size_t pwrite(std::uint64_t offset, std::span<const std::byte> bytes) = 0;
  /// Reserves the file's whole size, filled with zeros: a full disk shows here.
  virtual void allocate(std::uint64_t n_bytes) = 0;
  virtual void truncate(std::uint64_t n_bytes) = 0;
  virtual void sync() = 0;
  virtual void make_read_only() = 0;
  /// An exclusive lock until the file is closed; false if another holds it.
  virtual bool try_lock() = 0;
  /// Whether another open file holds it. Takes nothing, so that askers do not see each other.
  virtual bool is_locked() const = 0;
};

/// What stands in for a file that is only read: every change of it is a StoreError.
class ReadOnlyFile : public File {
 public:
  std::size_t pwrite(std::uint64_t offset, std::span<const std::byte> bytes) final;
  void allocate(std::uint64_t n_bytes) final;
  void truncate(std::uint64_t n_bytes) final;
  void sync() final;
  void make_read_only() final;
  bool try_lock() final;
  bool is_locked() const final { return false; }

 private:
  [[noreturn]] void refuse() const;
};

enum class OpenMode : std::uint8_t {
  kRead,              // a regular file that is there, never through a link
  kReadThroughLinks,  // one that the user named
  kReadWrite,         // as kRead
  kCreate,            // a new one; one of that name is an error
  kReadWriteOrCreate,
};

class Io {
 public:
  Io() = default;
  Io(const Io&) = delete;
  Io& operator=(const Io&) = delete;
  Io(Io&&) = delete;
  Io& operator=(Io&&) = delete;
  virtual ~Io() = default;

  virtual std::unique_ptr<File> open(const std::filesystem::path& path, OpenMode mode) = 0;
  /// False, and nothing is changed, if `to` is there.
  virtual bool rename_new(const std::filesystem::path& from, const std::filesystem::path& to) = 0;
  virtual void rename_over(const std::filesystem::path& from, const std::filesystem::path& to) = 0;
  virtual void unlink(const std::filesystem::path& path) = 0;
  virtual bool exists(const std::filesystem::path& path) = 0;
  /// Names in a folder, sorted; none for a folder that is not there.
  virtual std::vector<std::string> list(const std::filesystem::path& folder) = 0;
  /// Makes the folder and those above it; nothing where it is there.
  virtual void make_folder(const std::filesystem::path& folder) = 0;
  virtual void sync_folder(const std::filesystem::path& folder) = 0;
  /// Bytes that this user may still write there.
  virtual std::uint64_t free_bytes(const std::filesystem::path& folder) = 0;
};

/// The system's own files.
std::shared_ptr<Io> make_posix_io();

/// pwrite() until all is written.
void write_all(File& file, std::uint64_t offset, std::span<const std::byte> bytes);
/// pread() of exactly `into.size()` bytes; StoreError where the file ends before.
void read_all(const File& file, std::uint64_t offset, std::span<std::byte> into);
/// A whole small file as text; StoreError if it is larger than `max_bytes`.
std::string read_text(Io& io, const std::filesystem::path& path, std::uint64_t max_bytes);

/// Throws StoreError: the file, the operation, and what the system says of `code` (an errno).
[[noreturn]] void throw_io_error(const std::filesystem::path& path, const std::string& operation,
                                 int code);

}  // namespace bezel::store
