// The system's files behind io.h.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/io.h"

namespace bezel::store {
namespace {

namespace fs = std::filesystem;

constexpr mode_t kNewFile = 0644, kReadOnly = 0444;
constexpr std::size_t kWritebackBytes = std::size_t{1} << 20;
constexpr std::size_t kMaxTransferBytes = std::size_t{1} << 30;  // read and write stop at 2 GiB

class PosixFile final : public File {
 public:
  PosixFile(fs::path path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}
  PosixFile(const PosixFile&) = delete;
  PosixFile& operator=(const PosixFile&) = delete;
  PosixFile(PosixFile&&) = delete;
  PosixFile& operator=(PosixFile&&) = delete;
  ~PosixFile() override { ::close(descriptor_); }

  const fs::path& path() const override { return path_; }

  std::uint64_t size() const override {
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0) fail("size");
    return static_cast<std::uint64_t>(status.st_size);
  }

  std::size_t pread(std::uint64_t offset, std::span<std::byte> into) const override {
    std::size_t done = 0;
    while (done < into.size()) {
      const ssize_t n =
          ::pread(descriptor_, into.data() + done, std::min(into.size() - done, kMaxTransferBytes),
                  static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail("read");
      if (n == 0) break;
      done += static_cast<std::size_t>(n);
    }
    return done;
  }

  std::size_t pwrite(std::uint64_t offset, std::span<const std::byte> bytes) override {
    while (true) {
      const ssize_t n =
          ::pwrite(descriptor_, bytes.data(), std::min(bytes.size(), kMaxTransferBytes),
                   static_cast<off_t>(offset));
      if (n >= 0) {
        start_writeback(offset, static_cast<std::size_t>(n));
        return static_cast<std::size_t>(n);
      }
      if (errno != EINTR) fail("write");
    }
  }

  // So that the disk is at work while a shard fills, and not only when it is synced. Advice: what
  // goes wrong is sync()'s to say.
  void start_writeback(std::uint64_t offset, std::size_t n_bytes) const {
    if (n_bytes >= kWritebackBytes)
      ::sync_file_range(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(n_bytes),
                        SYNC_FILE_RANGE_WRITE);
  }

  void allocate(std::uint64_t n_bytes) override {  // writes zeros where the system cannot reserve
    if (const int code = ::posix_fallocate(descriptor_, 0, static_cast<off_t>(n_bytes)); code != 0)
      throw_io_error(path_, "allocate " + std::to_string(n_bytes) + " bytes", code);
  }

  void truncate(std::uint64_t n_bytes) override {
    if (::ftruncate(descriptor_, static_cast<off_t>(n_bytes)) != 0) fail("truncate");
  }

  void sync() override {
    if (::fsync(descriptor_) != 0) fail("fsync");
  }

  void make_read_only() override {
    if (::fchmod(descriptor_, kReadOnly) != 0) fail("make read-only");
  }

  // Locks of the open file, not of the process: two writers in one process see each other too, and
  // unlike flock they can be asked for without being taken.
  bool try_lock() override {
    struct flock range = whole_file();
    if (::fcntl(descriptor_, F_OFD_SETLK, &range) == 0) return true;
    if (errno != EAGAIN && errno != EACCES) fail("lock");
    return false;
  }

  bool is_locked() const override {
    struct flock range = whole_file();
    if (::fcntl(descriptor_, F_OFD_GETLK, &range) != 0) fail("lock");
    return range.l_type != F_UNLCK;
  }

 private:
  static struct flock whole_file() {
    struct flock range {};
    range.l_type = F_WRLCK;
    range.l_whence = SEEK_SET;
    return range;
  }
  [[noreturn]] void fail(const char* operation) const { throw_io_error(path_, operation, errno); }

  fs::path path_;
  int descriptor_;
};

int flags_of(OpenMode mode) {
  constexpr int kAlways = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;  // a pipe does not make us wait
  switch (mode) {
    case OpenMode::kRead:
      return kAlways | O_RDONLY;
    case OpenMode::kReadThroughLinks:
      return (kAlways | O_RDONLY) & ~O_NOFOLLOW;
    case OpenMode::kReadWrite:
      return kAlways | O_RDWR;
    case OpenMode::kCreate:
      return kAlways | O_RDWR | O_CREAT | O_EXCL;
    case OpenMode::kReadWriteOrCreate:
      return kAlways | O_RDWR | O_CREAT;
  }
  return kAlways | O_RDONLY;
}

class PosixIo final : public Io {
 public:
  std::unique_ptr<File> open(const fs::path& path, OpenMode mode) override {
    const int descriptor = ::open(path.c_str(), flags_of(mode), kNewFile);
    if (descriptor < 0 && errno == ELOOP)
      throw StoreError(path.string() + ": is a link; a store holds its files itself");
    if (descriptor < 0) throw_io_error(path, "open", errno);
    auto file = std::make_unique<PosixFile>(path, descriptor);
    struct stat status {};
    if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode))
      throw StoreError(path.string() + ": is no regular file");
    return file;
  }

  bool rename_new(const fs::path& from, const fs::path& to) override {
    if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0)
      return true;
    if (errno == EEXIST) return false;
    if (errno != EINVAL && errno != ENOSYS) throw_io_error(from, "rename to " + to.string(), errno);
    // A file system without that call: a second name, then without the first.
    if (::link(from.c_str(), to.c_str()) != 0) {
      if (errno == EEXIST) return false;
      throw_io_error(from, "rename to " + to.string(), errno);
    }
    unlink(from);
    return true;
  }

  void rename_over(const fs::path& from, const fs::path& to) override {
    if (std::rename(from.c_str(), to.c_str()) != 0)
      throw_io_error(from, "rename to " + to.string(), errno);
  }

  void unlink(const fs::path& path) override {
    if (::unlink(path.c_str()) != 0) throw_io_error(path, "remove", errno);
  }

  bool exists(const fs::path& path) override {
    struct stat status {};
    if (::lstat(path.c_str(), &status) == 0) return true;
    if (errno != ENOENT && errno != ENOTDIR) throw_io_error(path, "look for", errno);
    return false;
  }

  std::vector<std::string> list(const fs::path& folder) override {
    std::vector<std::string> names;
    std::error_code error;
    for (auto entry = fs::directory_iterator(folder, error);
         !error && entry != fs::directory_iterator(); entry.increment(error))
      names.push_back(entry->path().filename().string());
    if (error && error != std::errc::no_such_file_or_directory)
      throw_io_error(folder, "list", error.value());
    std::ranges::sort(names);
    return names;
  }

  void make_folder(const fs::path& folder) override {
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) throw_io_error(folder, "make the folder", error.value());
  }

  void sync_folder(const fs::path& folder) override {
    const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) throw_io_error(folder, "open", errno);
    const int code = ::fsync(descriptor) == 0 ? 0 : errno;
    ::close(descriptor);
    if (code != 0 && code != EINVAL) throw_io_error(folder, "fsync", code);  // EINVAL: has no fsync
  }

  std::uint64_t free_bytes(const fs::path& folder) override {
    struct statvfs status {};
    if (::statvfs(folder.c_str(), &status) != 0) throw_io_error(folder, "free space", errno);
    return std::uint64_t{status.f_bavail} * status.f_frsize;
  }
};

}  // namespace

std::shared_ptr<Io> make_posix_io() { return std::make_shared<PosixIo>(); }

}  // namespace bezel::store
