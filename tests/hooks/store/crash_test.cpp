// A dump of three shards that stops, or fails, at every one of its file operations.
#include <gtest/gtest.h>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/check.h"
#include "tests/hooks/store/faulty_io.h"
#include "tests/hooks/store/support.h"

namespace bezel::store {
namespace {

namespace fs = std::filesystem;

bool is_store(const fs::path& folder) { return fs::exists(folder / kManifestName); }

std::map<std::string, std::string> whole_store() {
  const TempFolder folder;
  dump(folder / "acts", {}, std::make_shared<FaultyIo>());
  return files_of(folder / "acts");
}

// Sealed and recorded shards are whole, and are those of an undisturbed dump; then a resume ends
// with its bytes.
void expect_resume(const fs::path& folder, const std::map<std::string, std::string>& wanted) {
  if (is_store(folder)) {
    EXPECT_EQ(check_text(folder, true), "");
    for (const auto& [name, bytes] : files_of(folder)) {
      if (!shard_of_name(name)) continue;
      EXPECT_EQ(bytes, wanted.at(name)) << name;
    }
  }
  dump(folder, {.start = Start::kResume}, std::make_shared<FaultyIo>());
  EXPECT_EQ(files_of(folder), wanted);
  EXPECT_EQ(check_text(folder, true, false), "");
}

// Runs `n_before` = 0, 1, … until a dump passes without the fault.
void for_each_operation(Fault fault, const std::function<void(FaultyIo&, const fs::path&)>& then,
                        Start start = Start::kNew,
                        const std::function<void(const fs::path&)>& prepare = {}) {
  for (std::uint64_t n = 0;; ++n) {
    const TempFolder folder;
    if (prepare) prepare(folder / "acts");
    auto io = std::make_shared<FaultyIo>(fault, n);
    bool has_failed = false;
    try {
      dump(folder / "acts", {.start = start, .n_workers = 1 + n % 2}, io);
    } catch (const Crash&) {
      has_failed = true;
    } catch (const StoreError& error) {
      has_failed = true;
      // On a full disk two threads may fail, and either be told.
      const std::string told = error.what(), hit = io->hit();
      const std::string wanted =
          fault == Fault::kDiskFull ? "No space left" : hit.substr(hit.rfind(' ') + 1);
      EXPECT_NE(told.find(wanted), told.npos) << hit << " was told as: " << told;
    }
    if (n >= io->n_operations()) {
      EXPECT_FALSE(has_failed);
      EXPECT_GT(n, 60U) << "operations of a dump";
      return;
    }
    EXPECT_EQ(has_failed, !io->hit().empty()) << "no error is swallowed: " << io->hit();
    SCOPED_TRACE("operation " + std::to_string(n) + ": " + io->hit());
    then(*io, folder / "acts");
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(Crash, AtEveryOperationLeavesASoundStoreThatResumesToTheSameBytes) {
  const auto wanted = whole_store();
  for_each_operation(Fault::kCrash,
                     [&](FaultyIo&, const fs::path& folder) { expect_resume(folder, wanted); });
}

TEST(Crash, WithLostPowerAtEveryOperationTheSame) {
  const auto wanted = whole_store();
  for_each_operation(Fault::kCrash, [&](FaultyIo& io, const fs::path& folder) {
    io.lose_power();
    expect_resume(folder, wanted);
  });
}

TEST(Crash, OfAResumeAtEveryOperationTheSame) {
  const auto wanted = whole_store();
  const auto stopped_in_the_second_shard = [](const fs::path& folder) {
    try {
      dump(folder, {}, std::make_shared<FaultyIo>(Fault::kCrash, 90));
    } catch (const Crash&) {
      ASSERT_TRUE(is_store(folder));
    }
  };
  for_each_operation(
      Fault::kCrash, [&](FaultyIo&, const fs::path& folder) { expect_resume(folder, wanted); },
      Start::kResume, stopped_in_the_second_shard);
}

// The second record is damaged, so all but the first are lost; of the shards one is missing (with
// its record), one whole, one damaged.
void make_damaged_store(const fs::path& folder) {
  dump(folder, {}, std::make_shared<FaultyIo>());
  std::string journal = bytes_of(folder / journal_name(0));
  journal[700] ^= 4;
  write_file(folder / journal_name(0), journal);
  fs::remove(folder / shard_name(0));
  std::string shard = bytes_of(folder / shard_name(2));
  shard[shard.size() - 1] ^= 4;
  write_file(folder / shard_name(2), shard);
}

void expect_second_repair(const fs::path& folder,
                          const std::map<std::string, std::string>& wanted) {
  dump(folder, {.start = Start::kRepair}, std::make_shared<FaultyIo>());
  EXPECT_EQ(files_of(folder), wanted);
  EXPECT_EQ(check_text(folder, true, false), "");
}

TEST(Crash, OfARepairAtEveryOperationLeavesWhatASecondOneCompletes) {
  const auto wanted = whole_store();
  for (const bool loses_power : {false, true}) {
    SCOPED_TRACE(loses_power);
    for_each_operation(
        Fault::kCrash,
        [&](FaultyIo& io, const fs::path& folder) {
          if (loses_power) io.lose_power();
          expect_second_repair(folder, wanted);
        },
        Start::kRepair, make_damaged_store);
  }
}

TEST(Fault, OfARepairAtEveryOperationIsATypedErrorAndASecondOneCompletes) {
  const auto wanted = whole_store();
  for (const Fault fault : {Fault::kIoError, Fault::kDiskFull, Fault::kShortWrite}) {
    SCOPED_TRACE(static_cast<int>(fault));
    for_each_operation(
        fault, [&](FaultyIo&, const fs::path& folder) { expect_second_repair(folder, wanted); },
        Start::kRepair, make_damaged_store);
  }
}

TEST(Fault, AtEveryOperationIsATypedErrorAndTheStoreResumes) {
  const auto wanted = whole_store();
  for (const Fault fault : {Fault::kIoError, Fault::kDiskFull, Fault::kShortWrite}) {
    SCOPED_TRACE(static_cast<int>(fault));
    for_each_operation(fault,
                       [&](FaultyIo&, const fs::path& folder) { expect_resume(folder, wanted); });
  }
}

}  // namespace
}  // namespace bezel::store
