#include "tests/hooks/store/faulty_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <thread>
#include <utility>

namespace bezel::store {

namespace fs = std::filesystem;

// Shared by the Io and its files.
class FaultyIo::Plan {
 public:
  Plan(Fault fault, std::uint64_t n_before) : fault_(fault), n_before_(n_before) {}

  enum class Kind : std::uint8_t { kOther, kTakesSpace, kWrite };

  // Counts one operation and throws what the plan has for it. True: take half of the write.
  bool step(const std::string& operation, const fs::path& path, Kind kind = Kind::kOther) {
    if (pause_.count() > 0) std::this_thread::sleep_for(pause_);
    const std::lock_guard lock(mutex_);
    if (has_crashed_) throw Crash();
    const std::uint64_t number = n_++;
    if (is_half_written_ && kind == Kind::kWrite && path == half_written_) {
      is_half_written_ = false;
      throw_io_error(path, operation, ENOSPC);
    }
    if (fault_ == Fault::kDiskFull && number >= n_before_ && kind != Kind::kOther) {
      if (hit_.empty()) hit_ = operation + " " + path.filename().string();
      throw_io_error(path, operation, ENOSPC);
    }
    if (number != n_before_ || fault_ == Fault::kNone || fault_ == Fault::kDiskFull) return false;
    if (fault_ == Fault::kShortWrite && kind != Kind::kWrite) return false;
    hit_ = operation + " " + path.filename().string();
    if (fault_ == Fault::kCrash) {
      has_crashed_ = true;
      throw Crash();
    }
    if (fault_ == Fault::kIoError) throw_io_error(path, operation, EIO);
    is_half_written_ = true;
    half_written_ = path;
    return true;
  }

  void wrote(const fs::path& path, std::uint64_t offset, std::uint64_t n) {
    const std::lock_guard lock(mutex_);
    unsynced_[path].push_back({offset, n});
  }
  void synced(const fs::path& path) {
    const std::lock_guard lock(mutex_);
    unsynced_.erase(path);
  }
  void renamed(const fs::path& from, const fs::path& to) {
    const std::lock_guard lock(mutex_);
    renames_.emplace_back(from, to);
    if (auto node = unsynced_.extract(from)) {
      node.key() = to;
      unsynced_.insert(std::move(node));
    }
  }
  void replaces(const fs::path& to) {
    std::ifstream stream(to, std::ios::binary);
    std::string bytes(std::istreambuf_iterator<char>(stream), {});
    const std::lock_guard lock(mutex_);
    if (stream) replaced_.emplace_back(to, std::move(bytes));
  }
  void synced_folder(const fs::path& folder) {
    const std::lock_guard lock(mutex_);
    std::erase_if(renames_, [&](const auto& pair) { return pair.second.parent_path() == folder; });
    std::erase_if(replaced_, [&](const auto& pair) { return pair.first.parent_path() == folder; });
  }

  void lose_power() {
    for (const auto& [path, parts] : unsynced_) {
      if (!fs::exists(path)) continue;
      ::chmod(path.c_str(), 0644);
      const int file = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
      for (const auto& [offset, n] : parts) {
        const std::string zeros(n, '\0');
        if (::pwrite(file, zeros.data(), n, static_cast<off_t>(offset)) < 0) std::terminate();
      }
      ::close(file);
    }
    for (auto pair = renames_.rbegin(); pair != renames_.rend(); ++pair)
      if (fs::exists(pair->second)) fs::rename(pair->second, pair->first);
    for (const auto& [path, bytes] : replaced_)
      std::ofstream(path, std::ios::binary)
          .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }

  void pause_before_each(std::chrono::microseconds pause) { pause_ = pause; }
  std::uint64_t n() const {
    const std::lock_guard lock(mutex_);
    return n_;
  }
  std::string hit() const {
    const std::lock_guard lock(mutex_);
    return hit_;
  }

 private:
  mutable std::mutex mutex_;
  const Fault fault_;
  const std::uint64_t n_before_;
  std::uint64_t n_ = 0;
  std::chrono::microseconds pause_{0};
  bool has_crashed_ = false, is_half_written_ = false;
  fs::path half_written_;
  std::string hit_;
  std::map<fs::path, std::vector<std::pair<std::uint64_t, std::uint64_t>>> unsynced_;
  std::vector<std::pair<fs::path, fs::path>> renames_;
  std::vector<std::pair<fs::path, std::string>> replaced_;  // files that a rename took the name of
};

namespace {

using Plan = FaultyIo::Plan;
using Kind = FaultyIo::Plan::Kind;

class FaultyFile final : public File {
 public:
  FaultyFile(std::unique_ptr<File> inner, std::shared_ptr<Plan> plan)
      : inner_(std::move(inner)), plan_(std::move(plan)) {}
  const fs::path& path() const override { return inner_->path(); }
  std::uint64_t size() const override {
    plan_->step("size", path());
    return inner_->size();
  }
  std::size_t pread(std::uint64_t offset, std::span<std::byte> into) const override {
    plan_->step("read", path());
    return inner_->pread(offset, into);
  }
  std::size_t pwrite(std::uint64_t offset, std::span<const std::byte> bytes) override {
    if (plan_->step("write", path(), Kind::kWrite)) bytes = bytes.first(bytes.size() / 2 + 1);
    plan_->wrote(path(), offset, bytes.size());
    return inner_->pwrite(offset, bytes);
  }
  void allocate(std::uint64_t n_bytes) override {
    plan_->step("allocate", path(), Kind::kTakesSpace);
    inner_->allocate(n_bytes);
  }
  void truncate(std::uint64_t n_bytes) override {
    plan_->step("truncate", path());
    inner_->truncate(n_bytes);
  }
  void sync() override {
    plan_->step("fsync", path());
    plan_->synced(path());  // only here: the disk itself would make the tests wait
  }
  void make_read_only() override {
    plan_->step("make read-only", path());
    inner_->make_read_only();
  }
  bool try_lock() override {
    plan_->step("lock", path());
    return inner_->try_lock();
  }
  bool is_locked() const override {
    plan_->step("look at the lock", path());
    return inner_->is_locked();
  }

 private:
  std::unique_ptr<File> inner_;
  std::shared_ptr<Plan> plan_;
};

}  // namespace

FaultyIo::FaultyIo(Fault fault, std::uint64_t n_before)
    : plan_(std::make_shared<Plan>(fault, n_before)) {}
FaultyIo::~FaultyIo() = default;

void FaultyIo::pause_before_each(std::chrono::microseconds pause) {
  plan_->pause_before_each(pause);
}
std::uint64_t FaultyIo::n_operations() const { return plan_->n(); }
std::string FaultyIo::hit() const { return plan_->hit(); }
void FaultyIo::lose_power() { plan_->lose_power(); }

std::unique_ptr<File> FaultyIo::open(const fs::path& path, OpenMode mode) {
  const bool makes = mode == OpenMode::kCreate || mode == OpenMode::kReadWriteOrCreate;
  plan_->step("open", path, makes ? Kind::kTakesSpace : Kind::kOther);
  return std::make_unique<FaultyFile>(inner_->open(path, mode), plan_);
}
bool FaultyIo::rename_new(const fs::path& from, const fs::path& to) {
  plan_->step("rename", from);
  const bool done = inner_->rename_new(from, to);
  if (done) plan_->renamed(from, to);
  return done;
}
void FaultyIo::rename_over(const fs::path& from, const fs::path& to) {
  plan_->step("rename", from);
  plan_->replaces(to);
  inner_->rename_over(from, to);
  plan_->renamed(from, to);
}
void FaultyIo::unlink(const fs::path& path) {
  plan_->step("remove", path);
  inner_->unlink(path);
}
bool FaultyIo::exists(const fs::path& path) {
  plan_->step("look for", path);
  return inner_->exists(path);
}
std::vector<std::string> FaultyIo::list(const fs::path& folder) {
  plan_->step("list", folder);
  return inner_->list(folder);
}
void FaultyIo::make_folder(const fs::path& folder) {
  plan_->step("make the folder", folder);
  inner_->make_folder(folder);
}
void FaultyIo::sync_folder(const fs::path& folder) {
  plan_->step("fsync", folder);
  plan_->synced_folder(folder);
}
std::uint64_t FaultyIo::free_bytes(const fs::path& folder) {
  plan_->step("free space", folder);
  return inner_->free_bytes(folder);
}

}  // namespace bezel::store
