// What a sealed file holds, and what is left where writing it fails.
#include "bezel/hooks/store/sealed_writer.h"

#include <gtest/gtest.h>

#include <thread>

#include "bezel/hooks/error.h"
#include "tests/hooks/store/faulty_io.h"
#include "tests/hooks/store/sealed_support.h"
#include "tests/hooks/store/support.h"

namespace bezel::store {
namespace {

class SealedWriter : public ::testing::Test {
 protected:
  void write(const std::vector<SealedEntry>& entries) { write_sealed(*io_, path_, entries); }
  SealedFile read() { return {*io_, path_, kTestKind}; }

  TempFolder folder_;
  std::filesystem::path path_ = folder_ / "a.h5";
  std::shared_ptr<Io> io_ = make_posix_io();
};

TEST_F(SealedWriter, WhatIsWrittenComesBack) {
  write(small_entries());
  const SealedFile file = read();
  EXPECT_EQ(file.members("/"), (std::vector<std::string>{"acts", "meta", "no_words", "words"}));
  EXPECT_EQ(file.members("/acts"), (std::vector<std::string>{"z", "a", "m", "number", "none"}));
  EXPECT_EQ(file.texts("/words"), (std::vector<std::string>{"one", "", "zwölf"}));
  EXPECT_TRUE(file.texts("/no_words").empty());
  EXPECT_EQ(file.attribute<std::string>("/meta", "kind"), "test");
  EXPECT_EQ(file.attribute<std::int64_t>("/meta", "schema"), 3);
  EXPECT_EQ(file.attribute<std::int64_t>("/meta", "whole"), 1);
  EXPECT_EQ(file.attribute<double>("/acts/a", "norm"), 1.5);
  EXPECT_EQ(file.attribute<std::vector<std::int64_t>>("/acts/a", "positions"),
            (std::vector<std::int64_t>{4, 7}));
  for (const SealedEntry& entry : small_entries()) {
    const auto* const wanted = std::get_if<SealedValues>(&entry);
    if (wanted == nullptr) continue;
    const SealedDataset& found = file.dataset(wanted->path);
    EXPECT_EQ(found.dtype, wanted->dtype) << wanted->path;
    EXPECT_EQ(found.shape, wanted->shape) << wanted->path;
    EXPECT_EQ(found.axes, wanted->axes) << wanted->path;
    const OwnedBytes bytes = wanted->bytes();
    EXPECT_TRUE(std::ranges::equal(bytes_in(file, wanted->path), bytes.bytes)) << wanted->path;
  }
}

TEST_F(SealedWriter, EveryDtypeComesBack) {
  std::vector<SealedEntry> entries;
  for (const DType dtype :
       {DType::kBFloat16, DType::kFloat16, DType::kFloat32, DType::kFloat64, DType::kUInt8,
        DType::kUInt64, DType::kInt8, DType::kInt16, DType::kInt32, DType::kInt64}) {
    const auto owner = std::make_shared<std::vector<std::byte>>(3 * size_of(dtype));
    entries.emplace_back(SealedValues{.path = "/" + std::string(to_string(dtype)),
                                      .dtype = dtype,
                                      .shape = {3},
                                      .bytes = [owner] {
                                        return OwnedBytes{*owner, owner};
                                      }});
  }
  write(entries);
  const SealedFile file = read();
  for (const std::string& name : file.members("/"))
    EXPECT_EQ(to_string(file.dataset("/" + name).dtype), name);
}

TEST_F(SealedWriter, TwoNamesOfOneDatasetAreOneObject) {
  write(small_entries());
  const SealedFile file = read();
  EXPECT_EQ(&file.dataset("/acts/m"), &file.dataset("/acts/z"));
  EXPECT_NE(&file.dataset("/acts/m"), &file.dataset("/acts/a"));
}

TEST_F(SealedWriter, EqualContentsAreEqualBytesAtAnyTime) {
  write(small_entries());
  const std::string first = bytes_of(path_);
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // HDF5's times are whole seconds
  std::thread([&] { write(small_entries()); }).join();
  EXPECT_EQ(bytes_of(path_), first);
  write(small_entries(1));
  EXPECT_NE(bytes_of(path_), first);
}

TEST_F(SealedWriter, OtherBytesThanTheShapeTakesAreRefused) {
  write_file(path_, "old");
  auto entries = small_entries();
  std::get<SealedValues>(entries[3]).bytes = [] { return OwnedBytes{}; };
  EXPECT_THROW(write(entries), ArgumentError);
  std::get<SealedValues>(entries[3]).bytes = []() -> OwnedBytes { throw std::bad_alloc(); };
  EXPECT_THROW(write(entries), std::bad_alloc);
  EXPECT_EQ(all_files_of(folder_.path()), (std::map<std::string, std::string>{{"a.h5", "old"}}));
}

// Fails one operation after the other, until a file is written without the fault.
void for_each_operation(Fault fault,
                        const std::function<void(FaultyIo&, const TempFolder&)>& then) {
  for (std::uint64_t n = 0;; ++n) {
    const TempFolder folder;
    write_file(folder / "a.h5", "old");
    FaultyIo io(fault, n);
    std::string told;
    try {
      write_sealed(io, folder / "a.h5", small_entries());
    } catch (const Crash&) {
      told = "crash";
    } catch (const StoreError& error) {
      told = error.what();
    }
    if (io.hit().empty()) EXPECT_EQ(told, "");
    if (n >= io.n_operations()) {
      EXPECT_GT(n, 10U) << "operations of a file";
      return;
    }
    if (io.hit().empty()) continue;  // a short write is one of a write
    SCOPED_TRACE("operation " + std::to_string(n) + ": " + io.hit() + " told as " + told);
    EXPECT_NE(told, "") << "no error is swallowed";
    if (fault != Fault::kCrash) {
      EXPECT_NE(told.find("a.h5 could not be written"), told.npos);
      EXPECT_NE(told.find(fault == Fault::kIoError ? "Input/output error" : "No space left"),
                told.npos);
    }
    then(io, folder);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST_F(SealedWriter, AtEveryFailedOperationTheOldFileStaysAndNothingElseIsLeft) {
  write(small_entries());
  const std::string whole = bytes_of(path_);
  for (const Fault fault : {Fault::kIoError, Fault::kDiskFull, Fault::kShortWrite})
    for_each_operation(fault, [&](FaultyIo& io, const TempFolder& folder) {
      // The folder comes last: the new file is whole, and may not survive a power cut.
      const bool is_new = io.hit() == "fsync " + folder.path().filename().string();
      EXPECT_EQ(all_files_of(folder.path()),
                (std::map<std::string, std::string>{{"a.h5", is_new ? whole : "old"}}));
    });
}

TEST_F(SealedWriter, AfterACrashOrAPowerCutTheFileIsTheOldOneOrTheNew) {
  write(small_entries());
  const std::string whole = bytes_of(path_);
  for (const bool has_power : {true, false})
    for_each_operation(Fault::kCrash, [&](FaultyIo& io, const TempFolder& folder) {
      if (!has_power) io.lose_power();
      const std::string found = bytes_of(folder / "a.h5");
      EXPECT_TRUE(found == "old" || found == whole);
      write_sealed(*io_, folder / "a.h5", small_entries());  // over what the crash left
      EXPECT_EQ(all_files_of(folder.path()), (std::map<std::string, std::string>{{"a.h5", whole}}));
    });
}

TEST_F(SealedWriter, WhatWasWrittenSurvivesAPowerCut) {
  write_file(path_, "old");
  FaultyIo io;
  write_sealed(io, path_, small_entries());
  const std::string whole = bytes_of(path_);
  io.lose_power();
  EXPECT_EQ(bytes_of(path_), whole);
}

}  // namespace
}  // namespace bezel::store
