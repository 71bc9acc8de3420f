// Stores that are merged, shown as one, and told about.
#include "bezel/hooks/store/merge.h"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/index.h"
#include "bezel/hooks/store/info.h"
#include "bezel/hooks/store/skeleton.h"
#include "tests/hooks/store/faulty_io.h"
#include "tests/hooks/store/support.h"

namespace bezel::store {
namespace {

namespace fs = std::filesystem;

class Merge : public ::testing::Test {
 protected:
  // The shards rank, rank + 2, … of the small store.
  void dump_half(const std::string& name, std::uint64_t rank) {
    dump(folder_ / name, {.rank = rank, .n_ranks = 2, .run = name});
  }
  // The small store with only one of its values.
  Manifest stage(std::size_t value, const std::string& request) {
    Manifest manifest = small_manifest();
    manifest.values = {manifest.values[value]};
    manifest.request = request;
    return checked(manifest);
  }
  void dump_stage(const std::string& name, const Manifest& manifest) {
    Writer writer(folder_ / name, manifest);
    fill(writer, manifest, 5);
  }
  void expect_refused(const std::string& wanted) {
    const std::string told = refusal_of([&] {
      merge({folder_ / "a", folder_ / "b"}, folder_ / "out");
    });
    EXPECT_NE(told.find(wanted), told.npos) << "wanted: " << wanted << "\ngot: " << told;
    EXPECT_FALSE(fs::exists(folder_ / "out" / shard_name(0)));
  }
  TempFolder folder_;
};

TEST_F(Merge, OfDifferentRowsGivesTheStoreThatOneWriterWrites) {
  dump_half("a", 0);
  dump_half("b", 1);
  merge({folder_ / "b", folder_ / "a"}, folder_ / "out");
  dump(folder_ / "whole");
  EXPECT_EQ(files_of(folder_ / "out"), files_of(folder_ / "whole"));
  merge({folder_ / "b", folder_ / "a"}, folder_ / "out");
  EXPECT_EQ(files_of(folder_ / "out"), files_of(folder_ / "whole")) << "once more";
}

TEST_F(Merge, OfDifferentNamesJoinsTheColumns) {
  dump_stage("a", stage(0, R"({"model": "nano", "hooks": ["x"]})"));
  dump_stage("b", stage(1, R"({"model": "nano", "hooks": ["y"]})"));
  dump_stage("c", stage(2, R"({"model": "nano", "hooks": ["x:mean"]})"));
  merge({folder_ / "a", folder_ / "b", folder_ / "c"}, folder_ / "out");
  expect_all_rows(folder_ / "out");
  EXPECT_EQ(check_text(folder_ / "out", true, false), "");
  const auto io = make_posix_io();
  const Manifest manifest = survey(*io, folder_ / "out").manifest;
  EXPECT_EQ(manifest.request, R"({"hooks":["x","y","x:mean"],"model":"nano"})");
  ASSERT_EQ(manifest.values.size(), 3U);
  EXPECT_EQ(manifest.values[2], small_manifest().values[2]);
}

TEST_F(Merge, OfWhatOverlapsOrDoesNotFitIsRefused) {
  dump(folder_ / "a");
  dump_half("b", 1);
  expect_refused("both hold shard-000001.h5");
  fs::remove_all(folder_ / "b");
  dump_stage("b", stage(1, small_manifest().request));
  expect_refused("holds \"blocks.0.attn.hook_z\", which a store before it holds too");
  fs::remove_all(folder_ / "a");
  dump_stage("a", stage(0, R"({"model": "E2B"})"));
  expect_refused("/request/model: the store has \"E2B\"");
}

TEST_F(Merge, OfOtherLabelsIsRefused) {
  dump_stage("a", stage(0, small_manifest().request));
  const Manifest manifest = stage(1, small_manifest().request);
  {
    Writer writer(folder_ / "b", manifest);
    for (const std::uint64_t shard : writer.todo()) {
      writer.begin(shard);
      for (const Dataset& dataset : datasets_of(manifest)) {
        auto bytes = row_bytes(dataset, entries_of(dataset, manifest, shard));
        if (dataset.name == "position") bytes[0] ^= std::byte{1};
        writer.put(dataset.name, bytes);
      }
    }
    writer.finish();
  }
  expect_refused("has in rows 0–7 another position");
}

TEST_F(Merge, OfADamagedBlockIsRefused) {
  dump_half("a", 0);
  dump_half("b", 1);
  std::string bytes = bytes_of(folder_ / "a" / shard_name(0));
  bytes[make_skeleton(small_manifest(), 0).places.data[3]] ^= 1;
  write_file(folder_ / "a" / shard_name(0), bytes);
  expect_refused("block 0, rows 0–2: is not what its checksum says");
}

// All numbers of a dataset of the index, through HDF5 alone.
template <class Number = float>
std::vector<Number> shown(const fs::path& index, const std::string& path, std::size_t n) {
  std::vector<Number> numbers(n);
  const hid_t file = H5Fopen(index.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const hid_t dataset = H5Dopen2(file, path.c_str(), H5P_DEFAULT);
  const hid_t space = H5Dget_space(dataset);
  EXPECT_EQ(H5Sget_simple_extent_npoints(space), static_cast<hssize_t>(n)) << path;
  H5Sclose(space);
  const hid_t type = std::is_same_v<Number, float>    ? H5T_NATIVE_FLOAT
                     : std::is_same_v<Number, double> ? H5T_NATIVE_DOUBLE
                                                      : H5T_NATIVE_INT64;
  EXPECT_GE(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, numbers.data()), 0);
  H5Dclose(dataset);
  H5Fclose(file);
  return numbers;
}

TEST_F(Merge, AnIndexShowsAllShardsAndNanForRowsThatAreNotThere) {
  dump_half("a", 0);
  const auto io = make_posix_io();
  write_index(*io, folder_ / "a");
  fs::rename(folder_ / "a", folder_ / "moved");  // its paths are relative
  const auto numbers = shown(folder_ / "moved" / kIndexName, "/acts/blocks.0.attn.hook_z", 21 * 6);
  const Dataset z = datasets_of(small_manifest())[4];
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    float wanted = 0;
    std::memcpy(&wanted, row_bytes(z, {0, 21}).data() + i * sizeof wanted, sizeof wanted);
    const bool is_there = i / 6 < 8 || i / 6 >= 16;
    EXPECT_TRUE(is_there ? numbers[i] == wanted || std::isnan(wanted) : std::isnan(numbers[i]))
        << i;
  }
  const auto ids = shown(folder_ / "moved" / kIndexName, "/rows/token_id", 21);
  EXPECT_EQ(ids[10], -1);
  const auto halves =
      shown(folder_ / "moved" / kIndexName, "/acts/blocks.0.hook_resid_post", 21 * 6);
  EXPECT_TRUE(std::isnan(halves[10 * 6]));
}

TEST_F(Merge, AnIndexShowsValuesPerShardByTheShardsNumber) {
  dump_half("a", 0);
  write_index(*make_posix_io(), folder_ / "a");
  const auto means = shown<double>(folder_ / "a" / kIndexName, "/reduce/" + std::string(kMean), 18);
  const auto counts =
      shown<std::int64_t>(folder_ / "a" / kIndexName, "/reduce/" + std::string(kCount), 3);
  for (const std::uint64_t shard : {0, 2}) {
    const auto datasets = datasets_of(small_manifest());
    const auto wanted = row_bytes(datasets[5], {shard, 1});
    EXPECT_EQ(std::memcmp(means.data() + shard * 6, wanted.data(), wanted.size()), 0);
    EXPECT_EQ(std::memcmp(counts.data() + shard, row_bytes(datasets[6], {shard, 1}).data(), 8), 0);
  }
  EXPECT_TRUE(std::isnan(means[6])) << "shard 1 is not there";
  EXPECT_EQ(counts[1], -1);
}

TEST_F(Merge, AnIndexIsMadeAnewAndIsTheSame) {
  dump(folder_ / "a");
  const auto io = make_posix_io();
  write_index(*io, folder_ / "a");
  const auto first = files_of(folder_ / "a");
  write_index(*io, folder_ / "a");
  EXPECT_EQ(files_of(folder_ / "a"), first);
  EXPECT_TRUE(first.contains(kIndexName));
  EXPECT_EQ(check_text(folder_ / "a", true, false), "");
}

TEST_F(Merge, AnIndexThatFailsLeavesTheOldOne) {
  dump(folder_ / "a");
  write_index(*make_posix_io(), folder_ / "a");
  const auto before = files_of(folder_ / "a");
  for (std::uint64_t n = 0;; ++n) {
    FaultyIo io(Fault::kIoError, n);
    bool is_refused = false;
    try {
      write_index(io, folder_ / "a");
    } catch (const StoreError&) {
      is_refused = true;
    }
    if (n >= io.n_operations()) break;
    EXPECT_TRUE(is_refused) << io.hit();
    EXPECT_EQ(files_of(folder_ / "a").at(kIndexName), before.at(kIndexName));
  }
}

TEST_F(Merge, InfoTellsNamesAxesRowsAndProgress) {
  dump_half("a", 0);
  const std::string text = info_text(*make_posix_io(), folder_ / "a");
  for (const char* wanted :
       {"13 of 21 rows, 2 of 3 shards", "blocks.0.attn.hook_z  [row head=2 d_head=3] float32",
        "blocks.0.hook_resid_post  [row d_model=6] bfloat16",
        "blocks.0.hook_resid_post:mean  [shard d_model=6] float64",
        "blocks.0.hook_resid_post:count  [shard] int64", "journal-0.log: 2 shards, ended",
        "\"model\":\"nano\""})
    EXPECT_NE(text.find(wanted), text.npos) << "wanted: " << wanted << "\ngot: " << text;
}

// The program's exit status and output.
std::pair<int, std::string> run(const std::string& arguments, const fs::path& output) {
  const int status = std::system(
      (std::string(BEZEL_STORE_PROGRAM) + " " + arguments + " >" + output.string() + " 2>&1")
          .c_str());
  return {WEXITSTATUS(status), bytes_of(output)};
}

TEST_F(Merge, TheProgramTellsByItsExit) {
  dump_half("a", 0);
  dump_half("b", 1);
  const auto in = [&](const char* name) { return (folder_ / name).string(); };
  const auto with = [&](const std::string& arguments) { return run(arguments, folder_ / "said"); };
  EXPECT_EQ(with("check " + in("a")).first, 0);
  EXPECT_NE(with("check --full " + in("a")).second.find("sound, unfinished, 13 of 21 rows"),
            std::string::npos);
  EXPECT_EQ(with("merge " + in("a") + " " + in("b") + " --out " + in("out")).first, 0);
  EXPECT_NE(with("check --full " + in("out")).second.find("sound, complete, 21 of 21"),
            std::string::npos);
  EXPECT_EQ(with("index " + in("out")).first, 0);
  EXPECT_EQ(with("info " + in("out")).first, 0);
  fs::remove(folder_ / "out" / shard_name(1));
  const auto [status, said] = with("check " + in("out"));
  EXPECT_EQ(status, 1);
  EXPECT_NE(said.find("shard-000001.h5: is missing; rows 8–15"), said.npos) << said;
  EXPECT_EQ(with("check " + in("nowhere")).first, 2);
  EXPECT_EQ(with("check").first, 2);
  EXPECT_EQ(with("frobnicate").first, 2);
  EXPECT_EQ(with("--help").first, 0);
}

}  // namespace
}  // namespace bezel::store
