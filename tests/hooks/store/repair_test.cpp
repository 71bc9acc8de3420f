// Repairs of a store in which anything but the manifest may be damaged: exactly that is made again,
// and comes out with the bytes of the store that nothing happened to.
#include "bezel/hooks/store/repair.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "bezel/hooks/store/shard_writer.h"
#include "tests/hooks/store/faulty_io.h"
#include "tests/hooks/store/support.h"

namespace bezel::store {
namespace {

namespace fs = std::filesystem;
using Shards = std::vector<std::uint64_t>;

class Repairs : public ::testing::Test {
 protected:
  void SetUp() override {
    acts_ = folder_ / "acts";
    dump(acts_, {}, std::make_shared<FaultyIo>());
    fs::remove(acts_ / lock_name(0));
    whole_ = all_files_of(acts_);
  }
  void put(const std::string& name, const std::string& bytes) { write_file(acts_ / name, bytes); }
  void put_back() {
    for (const auto& [name, bytes] : all_files_of(acts_))
      if (!whole_.contains(name) || whole_[name] != bytes) fs::remove(acts_ / name);
    for (const auto& [name, bytes] : whole_)
      if (!fs::exists(acts_ / name)) put(name, bytes);
  }
  // Repairs as a program would; the shards that it had to make again.
  Shards repair() {
    const Manifest manifest = small_manifest();
    Writer writer(acts_, manifest, {.start = Start::kRepair, .n_workers = 1},
                  std::make_shared<FaultyIo>());
    Shards todo = writer.todo();
    fill(writer, manifest, 8);
    return todo;
  }
  std::map<std::string, std::string> files() {
    auto found = all_files_of(acts_);
    found.erase(lock_name(0));
    return found;
  }
  void expect_repaired(const Shards& wanted) {
    ASSERT_EQ(repair(), wanted);
    ASSERT_EQ(files(), whole_);
  }
  TempFolder folder_;
  fs::path acts_;
  std::map<std::string, std::string> whole_;
};

// One bit, another one at each byte.
std::string flipped(std::string bytes, std::size_t byte) {
  bytes[byte] = static_cast<char>(bytes[byte] ^ (1 << (byte % 8)));
  return bytes;
}

TEST_F(Repairs, ASoundStoreIsReadAndLeftAlone) {
  expect_repaired({});
  EXPECT_EQ(check_text(acts_, true, false), "");
}

TEST_F(Repairs, SayHowFarTheyHaveRead) {
  const std::string journal = whole_[journal_name(0)];
  put(journal_name(0), journal.substr(0, kRecordBytes));  // two shards have lost their records
  fs::remove(acts_ / shard_name(2));
  std::vector<std::pair<std::uint64_t, std::uint64_t>> told;
  WriterOptions options{.start = Start::kRepair, .repair_progress = [&](auto done, auto all) {
                          told.emplace_back(done, all);
                        }};
  Writer(acts_, small_manifest(), options);
  EXPECT_EQ(told, (decltype(told){{0, 2}, {1, 2}, {2, 2}}));
}

TEST_F(Repairs, EndWithoutAChangeWhereTheirProgressThrows) {
  put(shard_name(1), flipped(whole_[shard_name(1)], 5000));
  const auto before = files();
  WriterOptions options{.start = Start::kRepair, .repair_progress = [](auto done, auto) {
                          if (done == 2) throw std::runtime_error("interrupted");
                        }};
  EXPECT_THROW(Writer(acts_, small_manifest(), options), std::runtime_error);
  EXPECT_EQ(files(), before);
}

TEST_F(Repairs, AFlippedBitAnywhereInAShardMakesItAgain) {
  for (const std::uint64_t shard : {0, 1, 2}) {
    const std::string name = shard_name(shard), sound = whole_[name];
    // That each bit is found, damage_test says.
    for (std::size_t byte = 0; byte < sound.size(); byte += shard == 2 ? 11 : 97) {
      SCOPED_TRACE(name + " byte " + std::to_string(byte));
      put(name, flipped(sound, byte));
      ASSERT_NO_FATAL_FAILURE(expect_repaired({shard}));
    }
  }
  EXPECT_EQ(check_text(acts_, true, false), "");
}

TEST_F(Repairs, AFlippedBitAnywhereInAJournalLosesNoShard) {
  const std::string name = journal_name(0), sound = whole_[name];
  for (std::size_t byte = 0; byte < sound.size(); byte += 5) {  // all: journal_test
    SCOPED_TRACE(byte);
    put(name, flipped(sound, byte));
    ASSERT_NO_FATAL_FAILURE(expect_repaired({}));
  }
  EXPECT_EQ(check_text(acts_, true, false), "");
}

TEST_F(Repairs, ThatHaveEndedSurviveLostPower) {
  const Manifest manifest = small_manifest();
  for (const std::size_t byte : {700, 1600}) {  // of a record and of the end
    put(journal_name(0), flipped(whole_[journal_name(0)], byte));
    const auto io = std::make_shared<FaultyIo>();
    {
      Writer writer(acts_, manifest, {.start = Start::kRepair}, io);
      fill(writer, manifest, 8);
    }
    io->lose_power();
    EXPECT_EQ(files(), whole_) << byte;
  }
}

TEST_F(Repairs, RecordsThatAreLostMovedOrDoubledComeBack) {
  const std::string name = journal_name(0), sound = whole_[name];
  const auto line = [&](std::size_t i) { return sound.substr(i * kRecordBytes, kRecordBytes); };
  for (const std::string& changed :
       {std::string(), line(0), line(1) + line(2), line(0) + line(2) + line(3), line(3),
        line(0) + line(0) + line(1), line(1) + line(0) + line(2), sound + line(0), sound + sound,
        sound.substr(0, 700), std::string(kRecordBytes, '\0') + sound, std::string(9, 'x')}) {
    SCOPED_TRACE(changed);
    put(name, changed);
    ASSERT_NO_FATAL_FAILURE(expect_repaired({}));
  }
  fs::remove(acts_ / name);
  expect_repaired({});
}

TEST_F(Repairs, ShardsCutMissingExchangedOrForeignAreMadeAgain) {
  Manifest other = small_manifest();
  other.request = R"({"model": "nan0", "corpus": {"hash": "abc"}})";
  other = checked(other);
  {
    Writer writer(folder_ / "other", other);
    fill(writer, other, 4);
  }
  for (const std::uint64_t shard : {0, 1, 2}) {
    const std::string name = shard_name(shard), sound = whole_[name];
    for (const std::string& changed :
         {std::string(), sound.substr(0, 1), sound.substr(0, sound.size() / 2),
          sound.substr(0, sound.size() - 1), sound + '\0', sound + sound,
          std::string(sound.size(), 'x'), bytes_of(folder_ / "other" / name),
          whole_[shard_name((shard + 1) % 3)]}) {
      put(name, changed);
      ASSERT_NO_FATAL_FAILURE(expect_repaired({shard}));
    }
    fs::remove(acts_ / name);
    ASSERT_NO_FATAL_FAILURE(expect_repaired({shard}));
  }
  put(shard_name(0), whole_[shard_name(2)]);
  put(shard_name(2), whole_[shard_name(0)]);
  fs::remove(acts_ / shard_name(1));
  expect_repaired({0, 1, 2});
}

TEST_F(Repairs, AShardWithoutARecordStaysOnlyIfItIsWhole) {
  const std::string name = shard_name(2), sound = whole_[name];
  const std::string journal = whole_[journal_name(0)].substr(0, 2 * kRecordBytes);
  for (std::size_t byte = 0; byte < sound.size(); byte += 61) {  // all: damage_test
    SCOPED_TRACE(byte);
    put(journal_name(0), journal);
    put(name, flipped(sound, byte));
    ASSERT_NO_FATAL_FAILURE(expect_repaired({2}));
  }
  for (const std::string& changed :
       {std::string(), sound.substr(0, sound.size() - 1), sound + '\0', whole_[shard_name(1)]}) {
    put(journal_name(0), journal);
    put(name, changed);
    ASSERT_NO_FATAL_FAILURE(expect_repaired({2}));
  }
  put(journal_name(0), journal);
  expect_repaired({});
}

TEST_F(Repairs, AShardThatTheStoreDoesNotHaveGoes) {
  const auto io = make_posix_io();
  const Manifest manifest = small_manifest();
  ShardWriter writer(*io, acts_, manifest, 3, 0);  // whole, and with this store's id
  const auto datasets = datasets_of(manifest);
  for (std::size_t i = 0; i < datasets.size(); ++i)
    writer.write(i, row_bytes(datasets[i], entries_of(datasets[i], manifest, 3)));
  writer.seal(std::nullopt);
  ASSERT_TRUE(fs::exists(acts_ / shard_name(3)));
  expect_repaired({});
}

TEST_F(Repairs, OfAnUnfinishedStoreGoOnToItsEnd) {
  put(journal_name(0), whole_[journal_name(0)].substr(0, 2 * kRecordBytes) + "torn");
  fs::remove(acts_ / shard_name(2));
  put(shard_name(0), flipped(whole_[shard_name(0)], 5000));
  put("shard-000002.0.4711.partial", "rubbish");
  expect_repaired({0, 2});
}

// The records of all journals, each once.
std::vector<std::pair<std::uint64_t, std::string>> recorded(const fs::path& folder) {
  std::vector<std::pair<std::uint64_t, std::string>> records;
  for (const auto& [rank, journal] : survey(*make_posix_io(), folder).journals)
    for (const Record& record : journal.records) records.emplace_back(record.shard, record.hash);
  std::ranges::sort(records);
  return records;
}

// What may differ then: where in the journals the records stand that were appended anew.
TEST_F(Repairs, OfAnyMixtureGiveTheShardsAndRecordsOfTheSoundStore) {
  const auto wanted = recorded(acts_);
  std::mt19937_64 random(5);
  const auto damage = [&](const std::string& name) {
    const std::string sound = whole_[name];
    switch (random() % 6) {
      case 0:
        return put(name, flipped(sound, random() % sound.size()));
      case 1:
        return put(name, sound.substr(0, random() % sound.size()));
      case 2:
        fs::remove(acts_ / name);
        return;
      case 3:
        return put(name, whole_[shard_name(random() % 3)]);
      default:
        return;
    }
  };
  for (int round = 0; round < 200; ++round) {
    SCOPED_TRACE(round);
    for (const auto& [name, bytes] : whole_)
      if (name != kManifestName) damage(name);
    repair();
    auto found = files(), shards = whole_;
    EXPECT_EQ(recorded(acts_), wanted);
    EXPECT_EQ(check_text(acts_, true, false), "");
    found.erase(journal_name(0));
    shards.erase(journal_name(0));
    ASSERT_EQ(found, shards);
    EXPECT_TRUE(Writer(acts_, small_manifest(), {.start = Start::kResume}).todo().empty());
    put_back();
  }
}

TEST_F(Repairs, TakeOverForRanksWhoseJournalsAreDamaged) {
  fs::remove_all(acts_);
  for (const std::uint64_t rank : {0, 1})
    dump(acts_, {.rank = rank, .n_ranks = 2, .run = "x"}, std::make_shared<FaultyIo>());
  const std::string first = bytes_of(acts_ / journal_name(0));
  const std::string second = bytes_of(acts_ / journal_name(1));
  put(journal_name(1), flipped(second, 100));
  fs::remove(acts_ / shard_name(1));
  fs::remove(acts_ / lock_name(1));
  EXPECT_EQ(repair(), (Shards{1}));
  auto found = files();
  for (const std::uint64_t shard : {0, 1, 2})
    EXPECT_EQ(found[shard_name(shard)], whole_[shard_name(shard)]);
  EXPECT_TRUE(found[journal_name(0)].starts_with(first)) << "its record is appended here";
  EXPECT_EQ(found[journal_name(1)].size(), kRecordBytes) << "an end alone";
  EXPECT_EQ(check_text(acts_, true, false), "");
  const auto before = all_files_of(acts_);
  EXPECT_TRUE(Writer(acts_, small_manifest(), {.start = Start::kResume}).todo().empty());
  EXPECT_EQ(all_files_of(acts_), before) << "it is finished: not even a lock is taken";
}

TEST_F(Repairs, TornTailsOfOtherRanksGo) {
  fs::remove_all(acts_);
  for (const std::uint64_t rank : {0, 1})
    dump(acts_, {.rank = rank, .n_ranks = 2, .run = "x"}, std::make_shared<FaultyIo>());
  const auto before = files_of(acts_);
  put(journal_name(1), bytes_of(acts_ / journal_name(1)) + "torn");
  EXPECT_EQ(repair(), Shards());
  EXPECT_EQ(files_of(acts_), before);
}

TEST_F(Repairs, AJournalKeepsWhatStandsBeforeADoubledRecord) {
  const auto io = make_posix_io();
  const Survey found = survey(*io, acts_);
  const auto write_journal = [&](std::uint64_t rank, const Shards& shards) {
    const fs::path path = acts_ / journal_name(rank);
    fs::remove(path);
    JournalWriter journal(io->open(path, OpenMode::kCreate), parse_journal("", found.id));
    for (const std::uint64_t shard : shards) {
      journal.append(found.records.at(shard));
      journal.end();
    }
  };
  write_journal(0, {2});
  write_journal(1, {0, 1, 2});
  const std::string first = bytes_of(acts_ / journal_name(0));
  EXPECT_EQ(repair(), Shards());
  EXPECT_EQ(bytes_of(acts_ / journal_name(0)), first);
  EXPECT_EQ(bytes_of(acts_ / journal_name(1)).size(), 4 * kRecordBytes) << "of 0 and 1, with ends";
  EXPECT_EQ(check_text(acts_, true, false), "");
}

TEST_F(Repairs, AJournalThatDoublesAnothersRecordsKeepsNone) {
  put(journal_name(1), whole_[journal_name(0)]);
  EXPECT_EQ(repair(), Shards());
  auto found = files();
  EXPECT_EQ(found[journal_name(1)].size(), kRecordBytes) << "an end alone";
  found.erase(journal_name(1));
  EXPECT_EQ(found, whole_);
  EXPECT_EQ(check_text(acts_, true, false), "");
}

}  // namespace
}  // namespace bezel::store
