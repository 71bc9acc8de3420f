// Which files are accepted as a shard, and what is said of the others.
#include "bezel/hooks/store/shard_file.h"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <functional>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/hash.h"
#include "tests/hooks/store/support.h"

namespace bezel::store {
namespace {

class ShardFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    dump(folder_ / "acts");
    path_ = folder_ / "acts" / shard_name(0);
    std::filesystem::permissions(path_, std::filesystem::perms::owner_all);
  }
  // Changes the file with the HDF5 library, as another program would.
  void change(const std::function<void(hid_t)>& action) const {
    const hid_t file = H5Fopen(path_.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    ASSERT_GE(file, 0);
    action(file);
    H5Fclose(file);
  }
  // With a record of the file as it is: only what it holds can be refused.
  ShardFile open(Trust trust = Trust::kRecordedBytes) const {
    const auto file = io_->open(path_, OpenMode::kRead);
    const Record record{.shard = 0,
                        .first_row = 0,
                        .n_rows = 8,
                        .bytes = file->size(),
                        .hash = file_hash_hex(*file, file->size())};
    return open_shard(*io_, path_, small_manifest(), record, trust);
  }
  void expect_refused(const std::string& wanted) const {
    const std::string told = refusal_of([&] { open(); });
    EXPECT_NE(told.find(wanted), told.npos) << "wanted: " << wanted << "\ngot: " << told;
  }
  TempFolder folder_;
  std::filesystem::path path_;
  std::shared_ptr<Io> io_ = make_posix_io();
};

void set_number(hid_t file, const char* object, const char* name, std::int64_t value) {
  if (H5Aexists_by_name(file, object, name, H5P_DEFAULT) > 0)
    H5Adelete_by_name(file, object, name, H5P_DEFAULT);
  const hid_t space = H5Screate(H5S_SCALAR);
  const hid_t made = H5Acreate_by_name(file, object, name, H5T_STD_I64LE, space, H5P_DEFAULT,
                                       H5P_DEFAULT, H5P_DEFAULT);
  H5Awrite(made, H5T_NATIVE_INT64, &value);
  H5Aclose(made);
  H5Sclose(space);
}

// Puts a dataset of another kind in the place of one.
void replace(hid_t file, const char* path, hid_t type, const std::vector<hsize_t>& shape,
             bool is_chunked = false) {
  H5Ldelete(file, path, H5P_DEFAULT);
  const hid_t space = H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr);
  const hid_t layout = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_alloc_time(layout, H5D_ALLOC_TIME_EARLY);
  if (is_chunked) H5Pset_chunk(layout, static_cast<int>(shape.size()), shape.data());
  H5Dclose(H5Dcreate2(file, path, type, space, H5P_DEFAULT, layout, H5P_DEFAULT));
  H5Pclose(layout);
  H5Sclose(space);
}

TEST_F(ShardFiles, OwnBytesNeedNoParser) {
  EXPECT_EQ(open(Trust::kOwnBytesOnly).places, open().places);
}

TEST_F(ShardFiles, ADamagedFileIsNotGivenToHdf5) {
  std::string bytes = bytes_of(path_);
  const Record record{
      .shard = 0, .first_row = 0, .n_rows = 8, .bytes = bytes.size(), .hash = "the record's"};
  bytes[4] ^= 1;  // of HDF5's signature: it would say so
  write_file(path_, bytes);
  const std::string told =
      refusal_of([&] { open_shard(*io_, path_, small_manifest(), record, Trust::kRecordedBytes); });
  EXPECT_NE(told.find("nor what was sealed"), told.npos) << told;
}

TEST_F(ShardFiles, MetadataOfOtherBytesIsParsedOnlyWithTrust) {
  const Places before = open().places;
  change([](hid_t file) { set_number(file, "/", "note", 7); });
  EXPECT_EQ(open().places, before);
  const std::string told = refusal_of([&] { open(Trust::kOwnBytesOnly); });
  EXPECT_NE(told.find("is not what this bezel writes"), told.npos) << told;
}

TEST_F(ShardFiles, OtherIdentitiesAreTold) {
  change([](hid_t file) { set_number(file, "/", "first_row", 8); });
  expect_refused("its first_row is 8; wanted 0");
  change([](hid_t file) { set_number(file, "/", "schema", 2); });
  expect_refused("its schema is 2; wanted 1");
  change([](hid_t file) { H5Adelete(file, "schema"); });
  expect_refused("has no schema");
}

TEST_F(ShardFiles, OtherTypesShapesAndLayoutsAreRefused) {
  const char* const kPath = "/acts/blocks.0.attn.hook_z";
  change([&](hid_t file) { replace(file, kPath, H5T_IEEE_F64LE, {8, 2, 3}); });
  expect_refused("/acts/blocks.0.attn.hook_z has another type");
  change([&](hid_t file) { replace(file, kPath, H5T_IEEE_F32LE, {8, 6}); });
  expect_refused("/acts/blocks.0.attn.hook_z has another shape");
  change([&](hid_t file) { replace(file, kPath, H5T_IEEE_F32LE, {7, 2, 3}); });
  expect_refused("/acts/blocks.0.attn.hook_z has another shape");
  change([&](hid_t file) { replace(file, kPath, H5T_IEEE_F32LE, {8, 2, 3}, true); });
  expect_refused("/acts/blocks.0.attn.hook_z is stored in pieces");
  change([&](hid_t file) { replace(file, kPath, H5T_IEEE_F32LE, {8, 2, 3}); });
  expect_refused("has not one label for each axis");
}

TEST_F(ShardFiles, LinksAreNotFollowed) {
  change([](hid_t file) {
    H5Ldelete(file, "/rows/token_id", H5P_DEFAULT);
    H5Lcreate_external("other.h5", "/rows/token_id", file, "/rows/token_id", H5P_DEFAULT,
                       H5P_DEFAULT);
  });
  expect_refused("/rows/token_id is missing, or a link to elsewhere");
  change([](hid_t file) {
    H5Ldelete(file, "/rows", H5P_DEFAULT);
    H5Lcreate_soft("/acts", file, "/rows", H5P_DEFAULT, H5P_DEFAULT);
  });
  expect_refused("is missing, or a link to elsewhere");
}

TEST_F(ShardFiles, OtherLabelsAreRefused) {
  change([](hid_t file) {
    const char* const kPath = "/acts/blocks.0.hook_resid_post";
    const hid_t from =
        H5Aopen_by_name(file, "/rows/token_id", "DIMENSION_LABELS", H5P_DEFAULT, H5P_DEFAULT);
    const hid_t type = H5Aget_type(from);
    const hsize_t n = 2;
    const hid_t space = H5Screate_simple(1, &n, nullptr);
    H5Adelete_by_name(file, kPath, "DIMENSION_LABELS", H5P_DEFAULT);
    const hid_t made = H5Acreate_by_name(file, kPath, "DIMENSION_LABELS", type, space, H5P_DEFAULT,
                                         H5P_DEFAULT, H5P_DEFAULT);
    const char* const kLabels[] = {"row", "d_mlp"};
    H5Awrite(made, type, static_cast<const void*>(kLabels));
    H5Aclose(made);
    H5Sclose(space);
    H5Tclose(type);
    H5Aclose(from);
  });
  expect_refused("/acts/blocks.0.hook_resid_post has other labels than the manifest says");
}

}  // namespace
}  // namespace bezel::store
