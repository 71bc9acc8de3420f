// Rows as arrays, and what a reader refuses.
#include "bezel/hooks/store/reader.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <thread>

#include "bezel/hooks/error.h"
#include "tests/hooks/store/faulty_io.h"
#include "tests/hooks/store/support.h"

namespace bezel::store {
namespace {

namespace fs = std::filesystem;

constexpr const char* kBf16 = "blocks.0.hook_resid_post";
constexpr const char* kF32 = "blocks.0.attn.hook_z";

class Reading : public ::testing::Test {
 protected:
  void SetUp() override {
    acts_ = folder_ / "acts";
    dump(acts_);
  }
  // The bits of one number, from what was written.
  template <class Number>
  Number written(const Dataset& dataset, std::uint64_t row, std::size_t i) {
    Number number;
    std::memcpy(&number, row_bytes(dataset, {row, 1}).data() + i * sizeof number, sizeof number);
    return number;
  }
  TempFolder folder_;
  fs::path acts_;
};

TEST_F(Reading, RowsComeAsArraysInTheAxesOfTheManifest) {
  const Reader reader(acts_);
  const auto z = reader.read<float>(kF32, 6, 5);  // over a shard's end
  EXPECT_EQ(z.shape(), (xt::xarray<float>::shape_type{5, 2, 3}));
  for (std::size_t row = 0; row < 5; ++row)
    for (std::size_t i = 0; i < 6; ++i)
      EXPECT_EQ(std::bit_cast<std::uint32_t>(z(row, i / 3, i % 3)),
                written<std::uint32_t>(reader.dataset(kF32), 6 + row, i));
}

TEST_F(Reading, Bfloat16IsWidenedBitForBit) {
  const Reader reader(acts_);
  const auto rows = reader.read<float>(kBf16, 0, 21);
  const auto wide = reader.read<double>(kBf16, 0, 21);
  EXPECT_EQ(rows.shape(), (xt::xarray<float>::shape_type{21, 6}));
  for (std::size_t row = 0; row < 21; ++row) {
    for (std::size_t i = 0; i < 6; ++i) {
      EXPECT_EQ(std::bit_cast<std::uint32_t>(rows(row, i)),
                std::uint32_t{written<std::uint16_t>(reader.dataset(kBf16), row, i)} << 16);
      EXPECT_TRUE(std::isnan(rows(row, i)) || wide(row, i) == rows(row, i));
    }
  }
}

TEST_F(Reading, RowsInAnyOrderAndTwice) {
  const Reader reader(acts_);
  const std::vector<std::uint64_t> order = {20, 0, 1, 2, 7, 8, 7, 19, 20};
  const auto found = reader.read_rows<std::int64_t>("document", order);
  for (std::size_t i = 0; i < order.size(); ++i)
    EXPECT_EQ(found(i), written<std::int64_t>(reader.dataset("document"), order[i], 0));
  EXPECT_EQ(reader.read_rows<std::int64_t>("document", {}).size(), 0U);
}

TEST_F(Reading, LabelsAreReadLikeValues) {
  const Reader reader(acts_);
  const auto ids = reader.read<std::int32_t>("token_id", 0, 21);
  const auto wide = reader.read<std::int64_t>("token_id", 0, 21);
  for (std::size_t row = 0; row < 21; ++row) {
    EXPECT_EQ(ids(row), written<std::int32_t>(reader.dataset("token_id"), row, 0));
    EXPECT_EQ(wide(row), ids(row));
  }
}

TEST_F(Reading, ValuesPerShardComeByShard) {
  const Reader reader(acts_);
  EXPECT_EQ(reader.shards(), (std::vector<ShardRows>{{0, {0, 8}}, {1, {8, 8}}, {2, {16, 5}}}));
  const auto means = reader.read_shards<double>(kMean);
  const auto counts = reader.read_shards<std::int64_t>(kCount);
  EXPECT_EQ(means.shape(), (xt::xarray<double>::shape_type{3, 6}));
  EXPECT_EQ(counts.shape(), (xt::xarray<std::int64_t>::shape_type{3}));
  for (const std::uint64_t shard : {0, 1, 2}) {
    const auto mean = reader.read_shard<double>(kMean, shard);
    EXPECT_EQ(mean.shape(), (xt::xarray<double>::shape_type{6}));
    const auto count = reader.read_shard<std::int64_t>(kCount, shard);
    EXPECT_EQ(count.dimension(), 0U);
    EXPECT_EQ(count(), written<std::int64_t>(reader.dataset(kCount), shard, 0));
    EXPECT_EQ(counts(shard), count());
    for (std::size_t i = 0; i < 6; ++i) {
      const auto wanted = written<std::uint64_t>(reader.dataset(kMean), shard, i);
      EXPECT_EQ(std::bit_cast<std::uint64_t>(means(shard, i)), wanted);
      EXPECT_EQ(std::bit_cast<std::uint64_t>(mean(i)), wanted);
    }
  }
}

TEST_F(Reading, OnlyRecordedShardsHaveAPlaceAmongValuesPerShard) {
  fs::remove_all(acts_);
  dump(acts_, {.rank = 0, .n_ranks = 2, .run = "x"});
  const Reader reader(acts_);
  EXPECT_EQ(reader.shards(), (std::vector<ShardRows>{{0, {0, 8}}, {2, {16, 5}}}));
  const auto counts = reader.read_shards<std::int64_t>(kCount);
  EXPECT_EQ(counts.shape(), (xt::xarray<std::int64_t>::shape_type{2}));
  EXPECT_EQ(counts(1), written<std::int64_t>(reader.dataset(kCount), 2, 0));
  const std::string told = refusal_of([&] { reader.read_shard<std::int64_t>(kCount, 1); });
  EXPECT_NE(told.find("shard 1 is not written yet; the store is to have 3 shards"), told.npos);
  EXPECT_THROW(reader.read_shard<std::int64_t>(kCount, 3), StoreError);
}

TEST_F(Reading, RowsOfAValuePerShardAndShardsOfOthersAreRefused) {
  const Reader reader(acts_);
  std::vector<std::byte> row(12), mean(48);
  EXPECT_THROW(reader.read<double>(kMean, 0, 1), ArgumentError);
  EXPECT_THROW(reader.read_rows<double>(kMean, {0}), ArgumentError);
  EXPECT_THROW(reader.read_bytes(kMean, {0, 1}, mean), ArgumentError);
  EXPECT_THROW(reader.read_shards<float>(kBf16), ArgumentError);
  EXPECT_THROW(reader.read_shard<float>(kBf16, 0), ArgumentError);
  EXPECT_THROW(reader.read_shard_bytes(kBf16, 0, row), ArgumentError);
  EXPECT_THROW(reader.read_shard_bytes(kMean, 0, row), ArgumentError) << "48 bytes";
  EXPECT_THROW(reader.read_shards<float>(kMean), ArgumentError) << "no number is narrowed";
}

TEST_F(Reading, NoNumberIsNarrowed) {
  const Reader reader(acts_);
  EXPECT_THROW(reader.read<std::int32_t>("document", 0, 1), ArgumentError);
  EXPECT_THROW(reader.read<std::int64_t>(kBf16, 0, 1), ArgumentError);
  EXPECT_THROW(reader.read<float>("token_id", 0, 1), ArgumentError);
  EXPECT_THROW(reader.read<float>("blocks.1.hook_resid_post", 0, 1), ArgumentError);
}

TEST_F(Reading, RowsThatAreNotThereAreRefusedBeforeMemoryIsReserved) {
  const Reader reader(acts_);
  constexpr std::uint64_t kMax = ~std::uint64_t{0};
  for (const auto& [first, n] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
           {21, 1}, {20, 2}, {0, kMax}, {kMax, 1}, {5, kMax - 2}, {0, std::uint64_t{1} << 50}})
    EXPECT_THROW(reader.read<float>(kBf16, first, n), StoreError) << first << " " << n;
  EXPECT_THROW(reader.read_rows<float>(kBf16, {3, 21}), StoreError);
  EXPECT_EQ(reader.read<float>(kBf16, 21, 0).size(), 0U);
}

TEST_F(Reading, OnlyWhatAJournalRecordsIsSeen) {
  write_file(acts_ / journal_name(0),
             bytes_of(acts_ / journal_name(0)).substr(0, 2 * kRecordBytes + 40));
  const Reader reader(acts_);
  EXPECT_EQ(reader.recorded(), (std::vector<Rows>{{0, 16}}));
  EXPECT_EQ(reader.total_rows(), 21U);
  const std::string told = refusal_of([&] { reader.read<float>(kBf16, 15, 2); });
  EXPECT_NE(told.find("row 16 is not written yet"), told.npos) << told;
}

TEST_F(Reading, AChecksumIsComparedOncePerBlockOrAlwaysOrNever) {
  const auto reads_of = [&](Checksum checksum) {
    auto io = std::make_shared<FaultyIo>();
    const Reader reader(acts_, {.checksum = checksum}, io);
    std::vector<std::uint64_t> n = {io->n_operations()};
    for (int i = 0; i < 2; ++i) {
      reader.read<float>(kBf16, 0, 8);
      n.push_back(io->n_operations());
    }
    return std::pair(n[1] - n[0], n[2] - n[1]);
  };
  EXPECT_EQ(reads_of(Checksum::kNever), std::pair(1UL, 1UL));
  EXPECT_EQ(reads_of(Checksum::kAlways), std::pair(3UL, 3UL)) << "three blocks";
  EXPECT_EQ(reads_of(Checksum::kFirst), std::pair(3UL, 3UL));
}

TEST_F(Reading, ThreadsAndForkedProcessesReadOneReader) {
  const Reader reader(acts_);
  const auto wanted = reader.read<float>(kF32, 0, 21);
  const auto read_all_rows = [&] {
    bool is_same = true;
    for (std::uint64_t row = 0; row < 21; ++row) {
      const auto found = reader.read<float>(kF32, row, 1);
      is_same = is_same && std::memcmp(found.data(), wanted.data() + row * 6, 24) == 0;
    }
    return is_same;
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { EXPECT_TRUE(read_all_rows()); });
  for (std::thread& thread : threads) thread.join();
  const pid_t child = ::fork();
  if (child == 0) ::_exit(read_all_rows() ? 0 : 1);
  int status = 1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST_F(Reading, FailuresOfTheDiskAreStoreErrors) {
  for (std::uint64_t n = 0;; ++n) {
    auto io = std::make_shared<FaultyIo>(Fault::kIoError, n);
    std::string told;
    try {
      Reader(acts_, {}, io).read<float>(kF32, 0, 21);
    } catch (const StoreError& error) {
      told = error.what();
    }
    if (n >= io->n_operations()) break;
    EXPECT_NE(told.find("Input/output error"), told.npos) << io->hit() << ": " << told;
  }
}

}  // namespace
}  // namespace bezel::store
