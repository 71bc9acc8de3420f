// What a writer writes: the same bytes however the rows come, and what it refuses.
#include "bezel/hooks/store/writer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <thread>
#include <utility>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/reader.h"
#include "bezel/hooks/store/survey.h"
#include "tests/hooks/store/faulty_io.h"
#include "tests/hooks/store/support.h"

namespace bezel::store {
namespace {

TEST(Writer, TheRowsReadBackAreThoseThatWerePut) {
  const TempFolder folder;
  dump(folder / "acts");
  expect_all_rows(folder / "acts");
  EXPECT_EQ(check_text(folder / "acts", true, false), "");
}

TEST(Writer, TheBytesDoNotDependOnBatchesThreadsOrRanks) {
  const TempFolder folder;
  dump(folder / "a");
  const auto wanted = files_of(folder / "a");
  EXPECT_EQ(wanted.size(), 5U) << "manifest, journal, three shards";
  for (const std::uint64_t batch : {1, 2, 5, 100}) {
    for (const std::size_t n_workers : {1, 3}) {
      const auto path = folder / ("b" + std::to_string(batch) + "_" + std::to_string(n_workers));
      dump(path, {.n_workers = n_workers, .queue_bytes = 50}, make_posix_io(), batch);
      EXPECT_EQ(files_of(path), wanted) << batch << " rows, " << n_workers << " workers";
    }
  }
  for (const std::uint64_t rank : {0, 1})
    dump(folder / "ranks", {.rank = rank, .n_ranks = 2, .run = "x"});
  auto found = files_of(folder / "ranks");
  found.erase(journal_name(1));
  EXPECT_EQ(found.erase(journal_name(0)), 1U);
  auto shards = wanted;
  shards.erase(journal_name(0));
  EXPECT_EQ(found, shards);
  expect_all_rows(folder / "ranks");
}

TEST(Writer, ProgressTellsEachDurableShard) {
  const TempFolder folder;
  std::vector<std::uint64_t> rows;
  dump(folder / "acts", {.progress = [&](const Progress& done) {
         rows.push_back(done.rows);
         EXPECT_EQ(done.shards_planned, 3U);
       }});
  EXPECT_EQ(rows, (std::vector<std::uint64_t>{8, 16, 21}));
}

TEST(Writer, RowsThatNobodyWaitsForAreRefused) {
  const TempFolder folder;
  const Manifest manifest = small_manifest();
  Writer writer(folder / "acts", manifest);
  const std::vector<std::byte> two_rows(2 * 12), ten_rows(10 * 12);
  EXPECT_THROW(writer.put("blocks.0.hook_resid_post", two_rows), ArgumentError) << "before begin()";
  writer.begin(0);
  EXPECT_THROW(writer.put("blocks.0.hook_resid_pre", two_rows), ArgumentError) << "no such name";
  EXPECT_THROW(writer.put("blocks.0.hook_resid_post", std::vector<std::byte>(13)), ArgumentError);
  EXPECT_THROW(writer.put("blocks.0.hook_resid_post", ten_rows), ArgumentError) << "shard of 8";
  EXPECT_THROW(writer.begin(1), ArgumentError) << "rows to come";
  EXPECT_THROW(writer.finish(), ArgumentError) << "rows to come";
}

TEST(Writer, AShardWaitsForTheOneEntryOfAValuePerShard) {
  const TempFolder folder;
  const Manifest manifest = small_manifest();
  Writer writer(folder / "acts", manifest);
  writer.begin(2);
  for (const Dataset& dataset : datasets_of(manifest))
    if (dataset.name != kMean)
      writer.put(dataset.name, row_bytes(dataset, entries_of(dataset, manifest, 2)));
  EXPECT_THROW(writer.begin(1), ArgumentError) << "the mean is to come";
  EXPECT_THROW(writer.put(kMean, std::vector<std::byte>(2 * 48)), ArgumentError) << "two entries";
  EXPECT_THROW(writer.put(kMean, std::vector<std::byte>(5 * 8)), ArgumentError) << "part of one";
  writer.put(kMean, row_bytes(datasets_of(manifest)[5], {2, 1}));
  EXPECT_THROW(writer.put(kMean, std::vector<std::byte>(48)), ArgumentError) << "a second one";
  writer.finish();
  EXPECT_EQ(check_text(folder / "acts", true), "");
}

TEST(Writer, AnAbandonedWriterRemovesItsOpenShardAndKeepsTheSealed) {
  const TempFolder folder;
  const Manifest manifest = small_manifest();
  {
    Writer writer(folder / "acts", manifest);
    writer.begin(0);
    for (const Dataset& dataset : datasets_of(manifest))
      writer.put(dataset.name, row_bytes(dataset, entries_of(dataset, manifest, 0)));
    writer.begin(1);
    writer.put("token_id", row_bytes(datasets_of(manifest)[0], {8, 4}));
  }
  for (const auto& [name, bytes] : files_of(folder / "acts"))
    EXPECT_FALSE(rank_of_partial(name)) << name;
  dump(folder / "acts", {.start = Start::kResume});
  dump(folder / "whole");
  EXPECT_EQ(files_of(folder / "acts"), files_of(folder / "whole"));
}

TEST(Writer, AFullQueueHoldsTheCallerBack) {
  const TempFolder folder;
  dump(folder / "acts", {.n_workers = 1, .queue_bytes = 1}, make_posix_io(), 1);
  expect_all_rows(folder / "acts");
}

TEST(Writer, ASecondWriterIsRefusedWhileTheFirstLives) {
  const TempFolder folder;
  const Manifest manifest = small_manifest();
  const Writer first(folder / "acts", manifest);
  const auto before = files_of(folder / "acts");
  for (const Start start : {Start::kNew, Start::kResume}) {
    EXPECT_THROW(Writer(folder / "acts", manifest, {.start = start}), StoreError);
  }
  const std::string told =
      refusal_of([&] { Writer(folder / "acts", manifest, {.start = Start::kResume}); });
  EXPECT_NE(told.find("LOCK.0: another writer holds it"), told.npos) << told;
  const std::string other = refusal_of([&] {
    Writer(folder / "acts", manifest,
           {.start = Start::kResume, .rank = 1, .n_ranks = 2, .run = "y"});
  });
  EXPECT_NE(other.find("another run writes to this store"), other.npos) << other;
  EXPECT_FALSE(std::filesystem::exists(folder / "acts" / lock_name(1)));
  EXPECT_EQ(files_of(folder / "acts"), before);
}

TEST(Writer, AFinishedWriterBeginsNothing) {
  const TempFolder folder;
  Writer writer(folder / "acts", small_manifest());
  writer.finish();
  EXPECT_THROW(writer.begin(0), ArgumentError) << "its lock is given back";
}

TEST(Writer, TwoRunsThatMeetInAnEmptyFolderDoNotBothWrite) {
  // Another run comes and goes on while this one takes its lock.
  class Meeting : public FaultyIo {
   public:
    explicit Meeting(std::function<void()> meet) : meet_(std::move(meet)) {}
    void make_folder(const std::filesystem::path& folder) override {
      FaultyIo::make_folder(folder);
      if (auto meet = std::exchange(meet_, nullptr)) meet();
    }

   private:
    std::function<void()> meet_;
  };
  const TempFolder folder;
  const Manifest manifest = small_manifest();
  std::unique_ptr<Writer> other;
  const auto open_other = [&] {
    other = std::make_unique<Writer>(folder / "acts", manifest,
                                     WriterOptions{.rank = 1, .n_ranks = 2, .run = "other"});
  };
  EXPECT_THROW(Writer(folder / "acts", manifest, {}, std::make_shared<Meeting>(open_other)),
               StoreError);
  other.reset();
  std::filesystem::remove_all(folder / "acts");
  const auto write_all_of_it = [&] { dump(folder / "acts"); };
  EXPECT_THROW(Writer(folder / "acts", manifest, {}, std::make_shared<Meeting>(write_all_of_it)),
               StoreError);
  EXPECT_EQ(check_text(folder / "acts", true, false), "");
}

TEST(Writer, AShardThatIsThereIsNotWrittenOver) {
  const TempFolder folder;
  const Manifest manifest = small_manifest();
  Writer writer(folder / "acts", manifest);
  write_file(folder / "acts" / shard_name(1), "of another writer");
  const std::string told = refusal_of([&] { fill(writer, manifest, 3); });
  EXPECT_NE(told.find("shard-000001.h5: is there already"), told.npos) << told;
  EXPECT_EQ(bytes_of(folder / "acts" / shard_name(1)), "of another writer");
}

TEST(Writer, RanksOfOneRunWriteSideBySide) {
  const TempFolder folder;
  const auto write = [&](std::uint64_t rank) {
    dump(folder / "acts", {.rank = rank, .n_ranks = 3, .run = "job 7"}, make_posix_io(), 1);
  };
  std::vector<std::thread> ranks;
  for (std::uint64_t rank = 0; rank < 3; ++rank) ranks.emplace_back(write, rank);
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(check_text(folder / "acts", true, false), "");
  expect_all_rows(folder / "acts");
}

TEST(Writer, ShardsSealedWhileAStoreIsLookedAtAreNoDamage) {
  // Journals as they were when they were opened; then the writer goes on to its end.
  class Snapshot final : public ReadOnlyFile {
   public:
    explicit Snapshot(std::string bytes) : bytes_(std::move(bytes)) {}
    const std::filesystem::path& path() const override { return path_; }
    std::uint64_t size() const override { return bytes_.size(); }
    std::size_t pread(std::uint64_t, std::span<std::byte> into) const override {
      std::ranges::copy(std::as_bytes(std::span(bytes_)), into.begin());
      return bytes_.size();
    }

   private:
    std::filesystem::path path_ = "journal";
    std::string bytes_;
  };
  class Late : public FaultyIo {
   public:
    explicit Late(std::function<void()> meanwhile) : meanwhile_(std::move(meanwhile)) {}
    std::unique_ptr<File> open(const std::filesystem::path& path, OpenMode mode) override {
      if (!rank_of_journal(path.filename())) return FaultyIo::open(path, mode);
      auto snapshot = std::make_unique<Snapshot>(bytes_of(path));
      if (auto meanwhile = std::exchange(meanwhile_, nullptr)) meanwhile();
      return snapshot;
    }

   private:
    std::function<void()> meanwhile_;
  };
  const TempFolder folder;
  const Manifest manifest = small_manifest();
  Writer writer(folder / "acts", manifest);
  Late io([&] { fill(writer, manifest, 3); });
  const Survey found = survey(io, folder / "acts");
  EXPECT_TRUE(found.findings.empty()) << to_string(found.findings.front());
  EXPECT_EQ(survey(io, folder / "acts").n_rows(), 21U);
}

TEST(Writer, AReaderBesideAWriterSeesWhatIsRecorded) {
  const TempFolder folder;
  const Manifest manifest = small_manifest();
  Writer writer(folder / "acts", manifest);
  std::uint64_t n_seen = 0;
  std::thread reading([&] {
    const auto wanted = row_bytes(datasets_of(manifest)[3], {0, 21});
    while (n_seen < 21) {
      const Reader reader(folder / "acts");
      if (reader.recorded().empty()) continue;
      const Rows rows = reader.recorded()[0];
      EXPECT_GE(rows.n, n_seen);
      n_seen = rows.n;
      std::vector<std::byte> found(rows.n * 12);
      reader.read_bytes("blocks.0.hook_resid_post", rows, found);
      EXPECT_TRUE(std::equal(found.begin(), found.end(), wanted.begin()));
    }
  });
  fill(writer, manifest, 2);
  reading.join();
}

}  // namespace
}  // namespace bezel::store
