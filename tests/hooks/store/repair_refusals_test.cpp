// What a repair refuses, and that a refused one changes nothing.
#include <gtest/gtest.h>

#include <algorithm>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/hash.h"
#include "bezel/hooks/store/journal.h"
#include "bezel/hooks/store/shard_file.h"
#include "tests/hooks/store/faulty_io.h"
#include "tests/hooks/store/support.h"

namespace bezel::store {
namespace {

namespace fs = std::filesystem;

class RefusedRepairs : public ::testing::Test {
 protected:
  // Shard 1 has a flipped bit; there is something to repair.
  void SetUp() override {
    acts_ = folder_ / "acts";
    dump(acts_, {}, std::make_shared<FaultyIo>());
    sound_ = bytes_of(acts_ / shard_name(1));
    std::string changed = sound_;
    changed[changed.size() / 2] ^= 1;
    write_file(acts_ / shard_name(1), changed);
  }
  void expect_refused(const std::string& wanted, const Manifest& manifest = small_manifest(),
                      const std::shared_ptr<Io>& io = std::make_shared<FaultyIo>()) {
    auto before = all_files_of(acts_);
    const std::string told =
        refusal_of([&] { Writer(acts_, manifest, {.start = Start::kRepair}, io); });
    EXPECT_NE(told.find(wanted), told.npos) << "wanted: " << wanted << "\ngot: " << told;
    auto after = all_files_of(acts_);
    for (auto* files : {&before, &after}) files->erase(lock_name(0));
    EXPECT_EQ(after, before) << "a refused repair changed something";
  }
  TempFolder folder_;
  fs::path acts_;
  std::string sound_;
};

TEST_F(RefusedRepairs, OfAnotherManifest) {
  Manifest other = small_manifest();
  other.request = R"({"model": "E2B", "corpus": {"hash": "abc"}})";
  expect_refused("/request/model: the store has \"nano\", this run \"E2B\"", checked(other));
}

TEST_F(RefusedRepairs, OfAManifestWithAnyFlippedByte) {
  const std::string manifest = bytes_of(acts_ / kManifestName);
  for (std::size_t byte = 0; byte < manifest.size(); ++byte) {
    std::string changed = manifest;
    changed[byte] = static_cast<char>(changed[byte] ^ (1 << (byte % 8)));
    write_file(acts_ / kManifestName, changed);
    const std::string told =
        refusal_of([&] { Writer(acts_, small_manifest(), {.start = Start::kRepair}); });
    const std::string wanted = (acts_ / kManifestName).string() + ": was changed: its SHA-256 is ";
    ASSERT_TRUE(told.starts_with(wanted)) << byte << ": " << told;
    ASSERT_NE(told.find("journal-0.log was written for"), told.npos) << told;
  }
  expect_refused("It cannot be repaired");
  fs::remove(acts_ / kManifestName);
  expect_refused("has no MANIFEST.json; without it nothing can be repaired");
  EXPECT_THROW(Writer(folder_ / "new", small_manifest(), {.start = Start::kRepair}), StoreError);
  EXPECT_FALSE(fs::exists(folder_ / "new"));
}

TEST_F(RefusedRepairs, WithTheJournalOfAnotherStore) {
  Manifest other = small_manifest();
  other.request = R"({"model": "E2B"})";
  other = checked(other);
  {
    Writer writer(folder_ / "other", other);
    fill(writer, other, 4);
  }
  fs::copy_file(folder_ / "other" / journal_name(0), acts_ / journal_name(7));
  expect_refused("journal-7.log was written for " + sha256_hex(to_text(other)));
}

TEST_F(RefusedRepairs, BesideAnotherWriter) {
  const auto io = make_posix_io();
  {
    const auto lock = io->open(acts_ / lock_name(0), OpenMode::kReadWriteOrCreate);
    ASSERT_TRUE(lock->try_lock());
    expect_refused("LOCK.0: another writer holds it");
  }
  const auto lock = io->open(acts_ / lock_name(3), OpenMode::kReadWriteOrCreate);
  ASSERT_TRUE(lock->try_lock());
  expect_refused("LOCK.3: another run writes to this store");
}

TEST_F(RefusedRepairs, OnTooSmallADisk) {
  class Disk : public FaultyIo {
   public:
    explicit Disk(std::uint64_t n_bytes) : n_bytes_(n_bytes) {}
    std::uint64_t free_bytes(const fs::path&) override { return n_bytes_; }

   private:
    std::uint64_t n_bytes_;
  };
  fs::remove(acts_ / shard_name(0));  // the damaged shard gives back the room for one of two
  const std::uint64_t n_bytes = sound_.size();
  expect_refused("writes " + std::to_string(2 * n_bytes) + " bytes, the disk has " +
                     std::to_string(2 * n_bytes - 1) + " free without the damaged shards",
                 small_manifest(), std::make_shared<Disk>(n_bytes - 1));
  dump(acts_, {.start = Start::kRepair}, std::make_shared<Disk>(n_bytes));
  EXPECT_EQ(check_text(acts_, true), "");
}

TEST_F(RefusedRepairs, BySeveralRanks) {
  const auto before = all_files_of(acts_);
  try {
    Writer(acts_, small_manifest(), {.start = Start::kRepair, .n_ranks = 2, .run = "x"});
    ADD_FAILURE() << "nothing was refused";
  } catch (const ArgumentError& error) {
    EXPECT_EQ(std::string(error.what()),
              "a repair by 2 ranks; wanted one, which has the store to itself");
  }
  EXPECT_EQ(all_files_of(acts_), before);
}

TEST_F(RefusedRepairs, WhereALinkStandsForAShard) {
  fs::rename(acts_ / shard_name(0), folder_ / "elsewhere.h5");
  fs::create_symlink(folder_ / "elsewhere.h5", acts_ / shard_name(0));
  expect_refused("shard-000000.h5: is a link; a store holds its files itself");
}

// It would come out of a repair as it is.
TEST_F(RefusedRepairs, OfAShardThatWasSealedAsNone) {
  fs::remove(acts_ / journal_name(0));
  std::string changed = bytes_of(acts_ / shard_name(0));
  changed[4] ^= 1;  // of HDF5's signature
  write_file(acts_ / shard_name(0), changed);
  const auto io = make_posix_io();
  const auto file = io->open(acts_ / shard_name(0), OpenMode::kRead);
  JournalWriter(io->open(acts_ / journal_name(0), OpenMode::kCreate),
                parse_journal("", sha256_hex(to_text(small_manifest()))))
      .append(record_of(*file, small_manifest(), 0));
  expect_refused("shard-000000.h5: is not HDF5");
}

// A shard that cannot be read now may be sound: it is not taken for damaged.
TEST_F(RefusedRepairs, WhereADiskFailsToRead) {
  std::uint64_t n_reads = 0;
  for (std::uint64_t n = 0;; ++n) {
    auto io = std::make_shared<FaultyIo>(Fault::kIoError, n);
    try {
      Writer(acts_, small_manifest(), {.start = Start::kRepair}, io);
    } catch (const StoreError&) {
    }
    if (n >= io->n_operations()) break;
    n_reads += io->hit().starts_with("read shard-") ? 1 : 0;
    EXPECT_TRUE(fs::exists(acts_ / shard_name(0)) && fs::exists(acts_ / shard_name(2)))
        << io->hit();
  }
  EXPECT_GE(n_reads, 4U) << "of two sound shards, for their hashes and metadata";
}

TEST_F(RefusedRepairs, ThatMakeOtherBytesThanWereRecorded) {
  const Manifest manifest = small_manifest();
  const std::string journal = bytes_of(acts_ / journal_name(0));
  {
    Writer writer(acts_, manifest, {.start = Start::kRepair});
    ASSERT_EQ(writer.todo(), (std::vector<std::uint64_t>{1}));
    writer.begin(1);
    for (const Dataset& dataset : datasets_of(manifest)) {
      auto bytes = row_bytes(dataset, entries_of(dataset, manifest, 1));
      if (dataset.name == "position") bytes[5] ^= std::byte{1};
      writer.put(dataset.name, bytes);
    }
    const std::string told = refusal_of([&] { writer.finish(); });
    EXPECT_TRUE(told.starts_with((acts_ / shard_name(1)).string() + ": this run makes other bytes"))
        << told;
    write_file(folder_ / "sound", sound_);
    const auto file = make_posix_io()->open(folder_ / "sound", OpenMode::kRead);
    EXPECT_NE(told.find("the record says " + file_hash_hex(*file, sound_.size())), told.npos)
        << told;
  }
  EXPECT_EQ(bytes_of(acts_ / journal_name(0)), journal);
  for (const auto& [name, bytes] : all_files_of(acts_)) {
    EXPECT_NE(name, shard_name(1)) << "it is left out";
    EXPECT_FALSE(rank_of_partial(name)) << name;
  }
  dump(acts_, {.start = Start::kRepair});
  EXPECT_EQ(bytes_of(acts_ / shard_name(1)), sound_);
  EXPECT_EQ(bytes_of(acts_ / journal_name(0)), journal) << "no record twice";
}

TEST_F(RefusedRepairs, AResumeTakesNoDamage) {
  fs::remove(acts_ / shard_name(0));
  const std::string told =
      refusal_of([&] { Writer(acts_, small_manifest(), {.start = Start::kResume}); });
  EXPECT_NE(told.find("shard-000000.h5: is missing"), told.npos) << told;
}

}  // namespace
}  // namespace bezel::store
