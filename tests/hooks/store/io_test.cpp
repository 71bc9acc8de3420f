// The system's files behind io.h, and what their errors say.
#include "bezel/hooks/store/io.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "bezel/hooks/error.h"
#include "tests/hooks/store/support.h"

namespace bezel::store {
namespace {

namespace fs = std::filesystem;

std::span<const std::byte> bytes_in(const std::string& text) {
  return std::as_bytes(std::span(text));
}

class Io : public ::testing::Test {
 protected:
  std::unique_ptr<File> make(const std::string& name, const std::string& text) {
    auto file = io_->open(folder_ / name, OpenMode::kCreate);
    write_all(*file, 0, bytes_in(text));
    return file;
  }
  TempFolder folder_;
  std::shared_ptr<store::Io> io_ = make_posix_io();
};

TEST_F(Io, WhatWasWrittenIsRead) {
  const auto file = make("a", "0123456789");
  EXPECT_EQ(file->size(), 10U);
  std::string text(4, ' ');
  read_all(*file, 3, std::as_writable_bytes(std::span(text)));
  EXPECT_EQ(text, "3456");
  EXPECT_EQ(file->pread(8, std::as_writable_bytes(std::span(text))), 2U) << "at the end";
  EXPECT_EQ(read_text(*io_, folder_ / "a", 10), "0123456789");
}

TEST_F(Io, ReservedBytesAreZerosOfTheWholeSize) {
  const auto file = make("a", "x");
  file->allocate(5000);
  EXPECT_EQ(file->size(), 5000U);
  EXPECT_EQ(bytes_of(folder_ / "a"), "x" + std::string(4999, '\0'));
  struct stat status {};
  ::stat((folder_ / "a").c_str(), &status);
  EXPECT_GE(status.st_blocks * 512, 5000) << "really reserved";
}

TEST_F(Io, AFileThatEndsEarlyIsToldWithItsPlace) {
  const auto file = make("short", "012");
  std::array<std::byte, 4> four{};
  const std::string told = refusal_of([&] { read_all(*file, 1, four); });
  EXPECT_NE(told.find("short: ends at byte 3; wanted 4 bytes at 1"), told.npos) << told;
}

TEST_F(Io, ATextBeyondItsLimitIsRefusedBeforeItIsRead) {
  make("a", "0123456789");
  EXPECT_THROW(read_text(*io_, folder_ / "a", 9), StoreError);
}

TEST_F(Io, NoNameIsWrittenOver) {
  make("from", "new");
  make("to", "old");
  EXPECT_FALSE(io_->rename_new(folder_ / "from", folder_ / "to"));
  EXPECT_EQ(bytes_of(folder_ / "to"), "old");
  EXPECT_TRUE(io_->rename_new(folder_ / "from", folder_ / "fresh"));
  EXPECT_EQ(bytes_of(folder_ / "fresh"), "new");
  EXPECT_FALSE(io_->exists(folder_ / "from"));
  EXPECT_THROW(io_->open(folder_ / "to", OpenMode::kCreate), StoreError);
}

TEST_F(Io, LinksFoldersAndPipesAreNoFiles) {
  make("a", "x");
  fs::create_symlink(folder_ / "a", folder_ / "link");
  fs::create_directory(folder_ / "folder");
  ASSERT_EQ(::mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  for (const char* name : {"link", "folder", "pipe", "nothing"}) {
    const std::string told = refusal_of([&] { io_->open(folder_ / name, OpenMode::kRead); });
    EXPECT_NE(told.find(std::string(name) + ": "), told.npos) << told;
  }
}

TEST_F(Io, ALockIsHeldByOneOpenFileUntilItCloses) {
  auto first = make("LOCK", "");
  const auto second = io_->open(folder_ / "LOCK", OpenMode::kReadWrite);
  EXPECT_FALSE(second->is_locked());
  EXPECT_TRUE(first->try_lock());
  EXPECT_TRUE(second->is_locked());
  EXPECT_FALSE(second->try_lock());
  EXPECT_FALSE(first->is_locked()) << "by another";
  first.reset();
  EXPECT_FALSE(second->is_locked());
  EXPECT_TRUE(second->try_lock());
}

TEST_F(Io, NamesComeSortedAndAnAbsentFolderHasNone) {
  make("b", "");
  make("a", "");
  EXPECT_EQ(io_->list(folder_.path()), (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(io_->list(folder_ / "nothing").empty());
  EXPECT_THROW(io_->list(folder_ / "a"), StoreError);
  EXPECT_GT(io_->free_bytes(folder_.path()), 0U);
}

TEST_F(Io, AnErrorNamesFileOperationReasonAndWhatToDo) {
  const std::string told = refusal_of([] { throw_io_error("acts/x.h5", "write", ENOSPC); });
  EXPECT_EQ(told, "acts/x.h5: write: No space left on device; free some space there, then resume");
}

// Takes one byte at a time, then nothing.
class SlowFile : public File {
 public:
  explicit SlowFile(std::size_t n_taken) : n_left_(n_taken) {}
  const fs::path& path() const override { return path_; }
  std::uint64_t size() const override { return written_.size(); }
  std::size_t pread(std::uint64_t, std::span<std::byte>) const override { return 0; }
  std::size_t pwrite(std::uint64_t offset, std::span<const std::byte> bytes) override {
    EXPECT_EQ(offset, written_.size());
    if (n_left_ == 0) return 0;
    --n_left_;
    written_ += static_cast<char>(bytes[0]);
    return 1;
  }
  void allocate(std::uint64_t) override {}
  void truncate(std::uint64_t) override {}
  void sync() override {}
  void make_read_only() override {}
  bool try_lock() override { return true; }
  bool is_locked() const override { return false; }
  std::string written_;

 private:
  fs::path path_ = "slow";
  std::size_t n_left_;
};

TEST_F(Io, AFileThatIsOnlyReadRefusesEachChange) {
  class Empty final : public ReadOnlyFile {
   public:
    const fs::path& path() const override { return path_; }
    std::uint64_t size() const override { return 0; }
    std::size_t pread(std::uint64_t, std::span<std::byte>) const override { return 0; }

   private:
    fs::path path_ = "empty";
  };
  Empty file;
  const std::vector<std::function<void()>> changes = {[&] { file.pwrite(0, bytes_in("x")); },
                                                      [&] { file.allocate(1); },
                                                      [&] { file.truncate(0); },
                                                      [&] { file.sync(); },
                                                      [&] { file.make_read_only(); },
                                                      [&] { file.try_lock(); }};
  for (const auto& change : changes) EXPECT_EQ(refusal_of(change), "empty: is only read");
  EXPECT_FALSE(file.is_locked());
}

TEST_F(Io, AShortWriteGoesOnWhereItStopped) {
  SlowFile patient(6), stuck(3);
  write_all(patient, 0, bytes_in("abcdef"));
  EXPECT_EQ(patient.written_, "abcdef");
  EXPECT_THROW(write_all(stuck, 0, bytes_in("abcdef")), StoreError) << "no endless loop";
}

}  // namespace
}  // namespace bezel::store
