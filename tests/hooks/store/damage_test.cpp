// Every way in which a store's bytes can go wrong is found, and named right.
#include <gtest/gtest.h>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/check.h"
#include "bezel/hooks/store/reader.h"
#include "bezel/hooks/store/shard_check.h"
#include "tests/hooks/store/support.h"

namespace bezel::store {
namespace {

namespace fs = std::filesystem;

// A file in memory.
class MemoryFile final : public ReadOnlyFile {
 public:
  explicit MemoryFile(std::string& bytes) : bytes_(bytes) {}
  const fs::path& path() const override { return path_; }
  std::uint64_t size() const override { return bytes_.size(); }
  std::size_t pread(std::uint64_t offset, std::span<std::byte> into) const override {
    if (offset >= bytes_.size()) return 0;
    const std::size_t n = std::min<std::size_t>(into.size(), bytes_.size() - offset);
    std::copy_n(std::as_bytes(std::span(bytes_)).begin() + static_cast<std::ptrdiff_t>(offset), n,
                into.begin());
    return n;
  }

 private:
  std::string& bytes_;
  fs::path path_ = "memory";
};

class Damage : public ::testing::Test {
 protected:
  void SetUp() override {
    acts_ = folder_ / "acts";
    dump(acts_);
  }
  void expect_found(const std::string& wanted, bool is_full = true) {
    const std::string found = check_text(acts_, is_full);
    EXPECT_NE(found.find(wanted), found.npos) << "wanted: " << wanted << "\ngot: " << found;
  }
  TempFolder folder_;
  fs::path acts_;
};

// What the byte at `offset` of a shard belongs to, from the manifest's arithmetic alone.
std::string owner_of(std::uint64_t offset, const Skeleton& skeleton, const Manifest& manifest,
                     std::uint64_t shard) {
  const auto datasets = datasets_of(manifest);
  const Rows rows = rows_of_shard(manifest, shard);
  for (std::size_t i = 0; i < datasets.size(); ++i) {
    const std::uint64_t data = skeleton.places.data[i], sums = skeleton.places.checksums[i];
    const std::uint64_t n = datasets[i].per_shard ? 1 : rows.n;
    const bool is_value = offset >= data && offset < data + n * datasets[i].row_bytes;
    const bool is_sum = offset >= sums && offset < sums + 8 * n_blocks(datasets[i], rows.n);
    if (!is_value && !is_sum) continue;
    const std::uint64_t block =
        is_sum ? (offset - sums) / 8
               : (offset - data) / datasets[i].row_bytes / datasets[i].rows_per_block;
    const Rows in_block =
        datasets[i].per_shard ? Rows{0, rows.n} : rows_of_block(datasets[i], rows.n, block);
    const std::uint64_t first = rows.first + in_block.first;
    return (is_sum ? "/checksums" : "") + datasets[i].path + " block " + std::to_string(block) +
           ", rows " + std::to_string(first) + "–" + std::to_string(first + in_block.n - 1) + ": ";
  }
  for (const auto& [begin, bytes] : skeleton.extents)
    if (offset >= begin && offset < begin + bytes.size())
      return "HDF5's metadata, byte " + std::to_string(offset) + ": ";
  return "its XXH3-128 is ";
}

TEST_F(Damage, AnyFlippedBitOfAShardIsNamedWithDatasetBlockAndRows) {
  const Manifest manifest = small_manifest();
  const std::uint64_t shard = 2;
  std::string bytes = bytes_of(acts_ / shard_name(shard));
  const Skeleton skeleton = make_skeleton(manifest, shard);
  const Rows rows = rows_of_shard(manifest, shard);
  const MemoryFile file(bytes);
  const auto io = make_posix_io();
  const auto records = survey(*io, acts_).records;
  const Record& record = records.at(shard);
  ASSERT_EQ(record.first_row, rows.first);
  ASSERT_TRUE(find_damage(file, manifest, record, skeleton, records).empty());
  for (std::size_t byte = 0; byte < bytes.size(); ++byte) {
    const std::string wanted = owner_of(byte, skeleton, manifest, shard);
    for (int bit = 0; bit < 8; ++bit) {
      const auto flip = static_cast<char>(1 << bit);
      bytes[byte] ^= flip;
      const auto lines = find_damage(file, manifest, record, skeleton, records);
      ASSERT_EQ(lines.size(), 1U) << byte << "/" << bit;
      ASSERT_TRUE(lines[0].starts_with(wanted)) << "wanted: " << wanted << "\ngot: " << lines[0];
      bytes[byte] ^= flip;
    }
  }
}

TEST_F(Damage, AShardWithAnyFlippedBitOrAnotherLengthIsNotWholeByItself) {
  const Manifest manifest = small_manifest();
  std::string bytes = bytes_of(acts_ / shard_name(2));
  const MemoryFile file(bytes);
  const Skeleton skeleton = make_skeleton(manifest, 2);
  ASSERT_TRUE(is_whole(file, manifest, 2, skeleton));
  for (std::size_t byte = 0; byte < bytes.size(); ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      bytes[byte] ^= static_cast<char>(1 << bit);
      ASSERT_FALSE(is_whole(file, manifest, 2, skeleton)) << byte << "/" << bit;
      bytes[byte] ^= static_cast<char>(1 << bit);
    }
  }
  ASSERT_TRUE(is_whole(file, manifest, 2, skeleton));
  bytes += '\0';
  EXPECT_FALSE(is_whole(file, manifest, 2, skeleton));
  bytes.resize(bytes.size() - 2);
  EXPECT_FALSE(is_whole(file, manifest, 2, skeleton));
}

TEST_F(Damage, AFlippedBitOfEachByteOfManifestAndJournalIsFound) {
  for (const std::string& name : {std::string(kManifestName), journal_name(0)}) {
    const std::string bytes = bytes_of(acts_ / name);
    for (std::size_t byte = 0; byte < bytes.size(); ++byte) {
      std::string changed = bytes;
      changed[byte] ^= static_cast<char>(1 << (byte % 8));
      write_file(acts_ / name, changed);
      const std::string found = check_text(acts_, false);
      ASSERT_TRUE(found.starts_with(name + ": ")) << name << " byte " << byte << ": " << found;
    }
    write_file(acts_ / name, bytes);
  }
}

TEST_F(Damage, AFlippedBitOfMetadataNeverReachesHdf5) {
  const std::string bytes = bytes_of(acts_ / shard_name(1));
  const std::size_t end = make_skeleton(small_manifest(), 1).extents.begin()->second.size();
  for (std::size_t byte = 0; byte < end; byte += 7) {  // libhdf5 1.10 dies of some of these
    std::string changed = bytes;
    changed[byte] ^= static_cast<char>(1 << (byte % 8));
    write_file(acts_ / shard_name(1), changed);
    EXPECT_THROW(Reader{acts_}, StoreError) << byte;
    expect_found("shard-000001.h5: HDF5's metadata, byte " + std::to_string(byte) + ":", false);
  }
}

TEST_F(Damage, ABlocksFlipIsFoundByCheckAndByReading) {
  const fs::path path = acts_ / shard_name(1);
  std::string bytes = bytes_of(path);
  const Skeleton skeleton = make_skeleton(small_manifest(), 1);
  bytes[skeleton.places.data[3] + 4 * 12] ^= 1;  // row 12 of the bfloat16 value
  write_file(path, bytes);
  EXPECT_EQ(check_text(acts_, false), "") << "the quick check does not look at values";
  expect_found("shard-000001.h5: /acts/blocks.0.hook_resid_post block 1, rows 11–13: bytes were");
  const Reader reader(acts_);
  const std::string told =
      refusal_of([&] { reader.read<float>("blocks.0.hook_resid_post", 12, 1); });
  EXPECT_NE(told.find("block 1, rows 11–13"), told.npos) << told;
  EXPECT_EQ(reader.read<float>("blocks.0.hook_resid_post", 8, 3).shape(0), 3U) << "other blocks";
  const Reader trusting(acts_, {.checksum = Checksum::kNever});
  EXPECT_EQ(trusting.read<float>("blocks.0.hook_resid_post", 12, 1).shape(0), 1U);
}

TEST_F(Damage, AFlippedBitOfAValuePerShardIsFoundByCheckAndByReading) {
  std::string bytes = bytes_of(acts_ / shard_name(1));
  bytes[make_skeleton(small_manifest(), 1).places.data[5] + 11] ^= 2;
  write_file(acts_ / shard_name(1), bytes);
  expect_found("shard-000001.h5: /reduce/blocks.0.hook_resid_post:mean block 0, rows 8–15: bytes");
  const Reader reader(acts_);
  EXPECT_EQ(reader.read_shard<double>(kMean, 0).shape(0), 6U) << "another shard";
  const std::string told = refusal_of([&] { reader.read_shards<double>(kMean); });
  EXPECT_NE(told.find(":mean block 0, rows 8–15: is not what its checksum says"), told.npos)
      << told;
}

TEST_F(Damage, ACutShardIsFoundAtAnyLength) {
  const std::string bytes = bytes_of(acts_ / shard_name(0));
  for (std::size_t n = 0; n < bytes.size(); n += 97) {
    write_file(acts_ / shard_name(0), bytes.substr(0, n));
    expect_found("shard-000000.h5: has " + std::to_string(n) + " bytes; its record says ", false);
  }
}

TEST_F(Damage, AMissingShardIsFound) {
  fs::remove(acts_ / shard_name(1));
  expect_found("shard-000001.h5: is missing; rows 8–15", false);
  EXPECT_THROW(Reader{acts_}, StoreError);
}

TEST_F(Damage, SwappedShardsAreFound) {
  fs::rename(acts_ / shard_name(0), acts_ / "x");
  fs::rename(acts_ / shard_name(1), acts_ / shard_name(0));
  fs::rename(acts_ / "x", acts_ / shard_name(1));
  for (const bool is_full : {false, true}) {
    expect_found("shard-000000.h5: its bytes are those of shard-000001.h5", is_full);
    expect_found("shard-000001.h5: its bytes are those of shard-000000.h5", is_full);
  }
  EXPECT_THROW(Reader{acts_}, StoreError);
}

TEST_F(Damage, AShardOfAnotherStoreIsFound) {
  Manifest other = small_manifest();
  other.request = R"({"model": "nan0", "corpus": {"hash": "abc"}})";
  other = checked(other);
  {
    Writer writer(folder_ / "other", other);
    fill(writer, other, 4);
  }
  fs::copy_file(folder_ / "other" / shard_name(1), acts_ / shard_name(1),
                fs::copy_options::overwrite_existing);
  for (const bool is_full : {false, true}) expect_found("it is of another store", is_full);
  fs::copy_file(folder_ / "other" / kManifestName, acts_ / kManifestName,
                fs::copy_options::overwrite_existing);
  expect_found("MANIFEST.json: its SHA-256 is ", false);
}

TEST_F(Damage, AFileThatIsNoHdf5IsFound) {
  const std::size_t n = bytes_of(acts_ / shard_name(1)).size();
  write_file(acts_ / shard_name(1), std::string(n, 'x'));
  for (const bool is_full : {false, true})
    expect_found("shard-000001.h5: HDF5's metadata: ", is_full);
}

TEST_F(Damage, AShardThatIsALinkIsRefused) {
  fs::rename(acts_ / shard_name(1), folder_ / "elsewhere.h5");
  fs::create_symlink(folder_ / "elsewhere.h5", acts_ / shard_name(1));
  expect_found("is a link; a store holds its files itself", false);
}

TEST_F(Damage, AFolderWithoutAManifestIsNoStore) {
  const std::string told = refusal_of([&] { check_text(folder_.path(), false); });
  EXPECT_NE(told.find("is no store"), told.npos) << told;
}

}  // namespace
}  // namespace bezel::store
