// What a resume refuses, and that a refused one changes nothing.
#include <gtest/gtest.h>

#include <fstream>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/journal.h"
#include "tests/hooks/store/faulty_io.h"
#include "tests/hooks/store/support.h"

namespace bezel::store {
namespace {

namespace fs = std::filesystem;

class Resume : public ::testing::Test {
 protected:
  void SetUp() override {
    acts_ = folder_ / "acts";
    dump(acts_);
    whole_ = files_of(acts_);
  }
  // Takes the store back to `n_shards` recorded shards, as a crash would have left it.
  void cut(std::uint64_t n_shards) {
    write_file(acts_ / journal_name(0),
               bytes_of(acts_ / journal_name(0)).substr(0, n_shards * kRecordBytes));
    for (std::uint64_t shard = n_shards; shard < 3; ++shard) fs::remove(acts_ / shard_name(shard));
  }
  void expect_refused(const std::string& wanted, const Manifest& manifest = small_manifest(),
                      Start start = Start::kResume) {
    const auto before = all_files_of(acts_);
    const std::string told = refusal_of([&] { Writer(acts_, manifest, {.start = start}); });
    EXPECT_NE(told.find(wanted), told.npos) << "wanted: " << wanted << "\ngot: " << told;
    EXPECT_EQ(all_files_of(acts_), before) << "a refused resume changed something";
  }
  void expect_resumes() {
    dump(acts_, {.start = Start::kResume});
    EXPECT_EQ(files_of(acts_), whole_);
  }

  TempFolder folder_;
  fs::path acts_;
  std::map<std::string, std::string> whole_;
};

TEST_F(Resume, AStoreIsNotWrittenOverWithoutBeingAsked) {
  expect_refused("holds a store already", small_manifest(), Start::kNew);
}

TEST_F(Resume, AFolderWithOtherThingsIsRefused) {
  fs::remove(acts_ / kManifestName);
  expect_refused("stands in the way", small_manifest(), Start::kNew);
  expect_refused("stands in the way", small_manifest(), Start::kResume);
}

TEST_F(Resume, AnAbsentOrEmptyFolderStartsAnew) {
  fs::remove_all(acts_);
  expect_resumes();
  fs::remove_all(acts_);
  fs::create_directories(acts_);
  expect_resumes();
}

TEST_F(Resume, AFinishedStoreHasNothingToDoAndIsNotTouched) {
  const auto before = all_files_of(acts_);
  Writer writer(acts_, small_manifest(), {.start = Start::kResume});
  EXPECT_TRUE(writer.todo().empty());
  writer.finish();
  EXPECT_EQ(all_files_of(acts_), before) << "locks too";
}

TEST_F(Resume, AnotherManifestIsRefusedWithEachFieldAndBothValues) {
  cut(1);
  Manifest other = small_manifest();
  other.rows_per_shard = 7;
  other.values[0].dtype = DType::kFloat32;
  other.request = R"({"model": "E2B", "corpus": {"hash": "abc"}})";
  other = checked(other);
  expect_refused("/rows_per_shard: the store has 8, this run 7", other);
  expect_refused("/values/0/dtype: the store has \"bfloat16\", this run \"float32\"", other);
  expect_refused("/request/model: the store has \"nano\", this run \"E2B\"", other);
  expect_resumes();
}

TEST_F(Resume, DamageIsRefused) {
  cut(2);
  const std::string journal = bytes_of(acts_ / journal_name(0));
  std::string changed = journal;
  changed[700] ^= 4;
  write_file(acts_ / journal_name(0), changed);
  expect_refused("journal-0.log: record 1 is damaged");
  write_file(acts_ / journal_name(0), journal.substr(kRecordBytes));
  expect_refused("journal-0.log: record 0 does not follow");
  write_file(acts_ / journal_name(0), journal);

  const std::string shard = bytes_of(acts_ / shard_name(1));
  write_file(acts_ / shard_name(1), shard + "x");
  expect_refused("shard-000001.h5: has " + std::to_string(shard.size() + 1) + " bytes");
  fs::remove(acts_ / shard_name(1));
  expect_refused("shard-000001.h5: is missing");
  write_file(acts_ / shard_name(1), shard);
  expect_resumes();
}

TEST_F(Resume, LostRecordsAreDamageButOneShardWithoutARecordIsNot) {
  write_file(acts_ / journal_name(0), bytes_of(acts_ / journal_name(0)).substr(0, kRecordBytes));
  expect_refused("records were lost");
  fs::remove(acts_ / shard_name(2));
  EXPECT_EQ(check_text(acts_, true), "");
  EXPECT_NE(check_text(acts_, true, false).find("shard-000001.h5: has no record"),
            std::string::npos);
  expect_resumes();
}

TEST_F(Resume, TornTailsAndPartialFilesOfDeadWritersGo) {
  cut(1);
  write_file(acts_ / journal_name(0), bytes_of(acts_ / journal_name(0)) + std::string(100, 'x'));
  write_file(acts_ / "shard-000001.0.4711.partial", "rubbish");
  write_file(acts_ / "shard-000002.5.4711.partial", "rubbish of a rank that is gone");
  write_file(acts_ / "MANIFEST.json.3.4711.partial", "rubbish");
  EXPECT_EQ(check_text(acts_, true), "");
  EXPECT_NE(check_text(acts_, true, false).find("cut short (100 bytes)"), std::string::npos);
  expect_resumes();
}

TEST_F(Resume, AnotherWorldSizeGoesOnFromTheUnionOfTheJournals) {
  fs::remove_all(acts_);
  dump(acts_, {.rank = 1, .n_ranks = 3, .run = "first"});
  std::ofstream(acts_ / journal_name(1), std::ios::app) << "torn";
  for (const std::uint64_t rank : {0, 1})
    dump(acts_, {.start = Start::kResume, .rank = rank, .n_ranks = 2, .run = "second"});
  EXPECT_EQ(check_text(acts_, true, false), "");
  expect_all_rows(acts_);
  auto found = files_of(acts_);
  for (const std::uint64_t shard : {0, 1, 2})
    EXPECT_EQ(found[shard_name(shard)], whole_[shard_name(shard)]);
  dump(acts_, {.start = Start::kResume});
  EXPECT_EQ(files_of(acts_), found) << "it is finished";
}

TEST_F(Resume, ADiskThatIsTooSmallIsRefusedWithBothNumbers) {
  class SmallDisk : public FaultyIo {
   public:
    std::uint64_t free_bytes(const fs::path&) override { return 5000; }
  };
  const std::string told = refusal_of(
      [&] { Writer(folder_ / "new", small_manifest(), {}, std::make_shared<SmallDisk>()); });
  EXPECT_NE(told.find("bytes, the disk has 5000 free"), told.npos) << told;
}

TEST_F(Resume, ARankOutOfItsWorldIsRefused) {
  EXPECT_THROW(Writer(folder_ / "new", small_manifest(), {.rank = 2, .n_ranks = 2, .run = "x"}),
               ArgumentError);
  EXPECT_THROW(Writer(folder_ / "new", small_manifest(), {.rank = 0, .n_ranks = 2}), ArgumentError)
      << "no name of the run";
  EXPECT_FALSE(fs::exists(folder_ / "new"));
}

}  // namespace
}  // namespace bezel::store
