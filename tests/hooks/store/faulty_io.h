// File operations of which one goes wrong, or after which none happens any more.
#pragma once

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bezel/hooks/store/io.h"

namespace bezel::store {

/// What every operation throws from the crash on: no code of the store may undo anything after it.
class Crash : public std::exception {
 public:
  const char* what() const noexcept override { return "crash"; }
};

enum class Fault : std::uint8_t {
  kNone,
  kCrash,       // this operation does not happen, nor any later one
  kIoError,     // EIO, this once
  kDiskFull,    // ENOSPC for this operation and every later one that takes space
  kShortWrite,  // half of a write is taken; the rest of it fails with ENOSPC
};

/// The system's files, but that nothing waits for the disk and one operation may go wrong.
class FaultyIo : public Io {
 public:
  /// Lets `n_before` operations pass.
  explicit FaultyIo(Fault fault = Fault::kNone, std::uint64_t n_before = 0);
  ~FaultyIo() override;

  /// Makes each operation last longer: for who stops the process from outside.
  void pause_before_each(std::chrono::microseconds pause);

  std::uint64_t n_operations() const;
  /// What the fault hit: "fsync shard-000000.0.123.partial"; empty if it hit nothing.
  std::string hit() const;
  /// After a crash: what was not made durable is lost. Bytes written since a file's last fsync are
  /// zeros, names given since their folder's last fsync are taken back (what they replaced is
  /// there).
  void lose_power();

  std::unique_ptr<File> open(const std::filesystem::path& path, OpenMode mode) override;
  bool rename_new(const std::filesystem::path& from, const std::filesystem::path& to) override;
  void rename_over(const std::filesystem::path& from, const std::filesystem::path& to) override;
  void unlink(const std::filesystem::path& path) override;
  bool exists(const std::filesystem::path& path) override;
  std::vector<std::string> list(const std::filesystem::path& folder) override;
  void make_folder(const std::filesystem::path& folder) override;
  void sync_folder(const std::filesystem::path& folder) override;
  std::uint64_t free_bytes(const std::filesystem::path& folder) override;

  class Plan;

 private:
  std::shared_ptr<Plan> plan_;
  std::shared_ptr<Io> inner_ = make_posix_io();
};

}  // namespace bezel::store
