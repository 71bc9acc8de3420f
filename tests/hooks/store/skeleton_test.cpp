// Shards without their values: equal bytes, and places that lie apart inside the file.
#include "bezel/hooks/store/skeleton.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "tests/hooks/store/support.h"

namespace bezel::store {
namespace {

TEST(Skeleton, IsTheSameAtAnyTimeAndInAnyThread) {
  const Skeleton first = make_skeleton(small_manifest(), 1);
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // HDF5's times are whole seconds
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      const Skeleton again = make_skeleton(small_manifest(), 1);
      EXPECT_EQ(again.extents, first.extents);
      EXPECT_EQ(again.places, first.places);
      EXPECT_EQ(again.file_bytes, first.file_bytes);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_NE(make_skeleton(small_manifest(), 0).extents, first.extents) << "the shard's number";
}

TEST(Skeleton, LeavesRoomForEveryValue) {
  Manifest manifest = small_manifest();
  manifest.has_types = true;
  for (int i = 0; i < 100; ++i)  // more than a group keeps in one piece
    manifest.values.push_back({.name = "blocks." + std::to_string(i) + ".mlp.hook_post",
                               .axes = {"d_mlp"},
                               .shape = {static_cast<std::uint64_t>(1 + 97 * i)}});
  manifest = checked(manifest);
  const Skeleton skeleton = make_skeleton(manifest, 2);
  std::map<std::uint64_t, std::uint64_t> taken;  // begin → end
  for (const auto& [offset, bytes] : skeleton.extents) taken[offset] = offset + bytes.size();
  const auto datasets = datasets_of(manifest);
  const std::uint64_t n_rows = rows_of_shard(manifest, 2).n;
  for (std::size_t i = 0; i < datasets.size(); ++i) {
    const std::uint64_t data = skeleton.places.data[i], sums = skeleton.places.checksums[i];
    const std::uint64_t n_bytes = (datasets[i].per_shard ? 1 : n_rows) * datasets[i].row_bytes;
    EXPECT_TRUE(taken.emplace(data, data + n_bytes).second);
    EXPECT_TRUE(taken.emplace(sums, sums + 8 * n_blocks(datasets[i], n_rows)).second);
    const bool is_large = n_bytes >= 4096;
    EXPECT_TRUE(!is_large || data % 4096 == 0) << datasets[i].path;
  }
  std::uint64_t end = 0;
  for (const auto& [begin, next] : taken) {
    EXPECT_GE(begin, end);
    end = next;
  }
  EXPECT_LE(end, skeleton.file_bytes);
}

TEST(Skeleton, HasAGroupForValuesPerShardWhereThereAreAny) {
  Manifest manifest = small_manifest();
  EXPECT_EQ(groups_of(manifest), (std::vector<std::string>{"/rows", "/acts", "/reduce"}));
  manifest.values.resize(2);
  EXPECT_EQ(groups_of(manifest), (std::vector<std::string>{"/rows", "/acts"}));
}

TEST(Layout, AValuePerShardHasOneEntryOfAllRows) {
  const Manifest manifest = small_manifest();
  const auto datasets = datasets_of(manifest);
  const Dataset &z = datasets[4], &mean = datasets[5];
  EXPECT_EQ(mean.path, "/reduce/blocks.0.hook_resid_post:mean");
  EXPECT_EQ(axes_of(mean), (std::vector<std::string>{"shard", "d_model"}));
  EXPECT_EQ(axes_of(z), (std::vector<std::string>{"row", "head", "d_head"}));
  EXPECT_EQ(entries_of(mean, manifest, 2), (Rows{2, 1}));
  EXPECT_EQ(entries_of(z, manifest, 2), (Rows{16, 5}));
  EXPECT_EQ(n_blocks(mean, 8), 1U);
  EXPECT_EQ(rows_of_block(mean, 8, 0), (Rows{0, 1}));
  EXPECT_EQ(rows_behind_block(mean, {8, 8}, 0), (Rows{8, 8}));
  EXPECT_EQ(rows_behind_block(datasets[3], {8, 8}, 1), (Rows{11, 3}));
}

TEST(Layout, NamesComeBackAsNumbersInOneSpelling) {
  EXPECT_EQ(shard_name(7), "shard-000007.h5");
  EXPECT_EQ(shard_of_name("shard-000007.h5"), 7U);
  EXPECT_EQ(shard_of_name(shard_name(12'345'678)), 12'345'678U);
  for (const char* name : {"shard-7.h5", "shard-0000007.h5", "shard-00000a.h5", "shard-000007.h5x",
                           "shard-.h5", "shard--00001.h5", "xshard-000007.h5"})
    EXPECT_FALSE(shard_of_name(name)) << name;
  EXPECT_EQ(rank_of_journal("journal-12.log"), 12U);
  EXPECT_FALSE(rank_of_journal("journal-012.log"));
  EXPECT_EQ(rank_of_lock("LOCK.3"), 3U);
  EXPECT_FALSE(rank_of_lock("LOCK."));
  EXPECT_EQ(rank_of_partial(partial_name(shard_name(3), 5)), 5U);
  EXPECT_EQ(rank_of_partial(partial_name(kManifestName, 6)), 6U);
  EXPECT_FALSE(rank_of_partial("shard-000001.h5"));
  EXPECT_FALSE(rank_of_partial(".partial"));
}

}  // namespace
}  // namespace bezel::store
