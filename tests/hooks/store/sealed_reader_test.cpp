// Files that are cut, damaged, or right sealed and still not what the writer makes.
#include "bezel/hooks/store/sealed_reader.h"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <random>

#include "bezel/hooks/error.h"
#include "tests/hooks/store/faulty_io.h"
#include "tests/hooks/store/sealed_support.h"
#include "tests/hooks/store/support.h"

namespace bezel::store {
namespace {

class SealedReader : public ::testing::Test {
 protected:
  void SetUp() override {
    write_sealed(*io_, path_, small_entries());
    whole_ = bytes_of(path_);
  }
  SealedFile open() const { return {*io_, path_, kTestKind}; }
  void expect_refused(const std::string& wanted) const {
    const std::string told = refusal_of([&] { open(); });
    EXPECT_NE(told.find(wanted), told.npos) << "wanted: " << wanted << "\ngot: " << told;
    EXPECT_NE(told.find("a.h5"), told.npos) << told;
  }
  // What another program made of the sealed file, sealed again.
  void expect_refused_after(const std::function<void(hid_t)>& change, const std::string& wanted) {
    write_file(path_, whole_);
    unseal(path_);
    const hid_t file = H5Fopen(path_.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    ASSERT_GE(file, 0);
    change(file);
    H5Fclose(file);
    seal_again(path_);
    expect_refused(wanted);
  }
  // The same for bytes: those of the file without its seal.
  void reseal(const std::string& bytes) const {
    write_file(path_, bytes);
    seal_again(path_);
  }

  TempFolder folder_;
  std::filesystem::path path_ = folder_ / "a.h5";
  std::shared_ptr<Io> io_ = make_posix_io();
  std::string whole_;
};

void make_dataset(hid_t file, const char* path, hid_t type, std::vector<hsize_t> shape,
                  hid_t creation = H5P_DEFAULT) {
  const hid_t space = H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr);
  H5Dclose(H5Dcreate2(file, path, type, space, H5P_DEFAULT, creation, H5P_DEFAULT));
  H5Sclose(space);
}

TEST_F(SealedReader, AFileCutAnywhereIsRefused) {
  for (std::size_t n = 0; n < whole_.size(); ++n) {
    write_file(path_, whole_.substr(0, n));
    EXPECT_THROW(open(), StoreError) << n;
  }
  write_file(path_, whole_ + '\0');
  expect_refused("does not end with bezel's trailer");
}

TEST_F(SealedReader, AnyFlippedBitIsRefused) {
  for (std::size_t i = 0; i < whole_.size(); ++i) {
    std::string flipped = whole_;
    flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i % 8)));
    write_file(path_, flipped);
    EXPECT_THROW(open(), StoreError) << i;
  }
}

TEST_F(SealedReader, DamageIsToldWithWhatToDo) {
  std::string bytes = whole_;
  bytes[100] ^= 1;
  write_file(path_, bytes);
  expect_refused("is damaged: the XXH3-128 of its bytes is ");
  expect_refused("Make it again, or copy it again");
  write_file(path_, "no HDF5");
  expect_refused("is no HDF5 file; wanted a test file");
}

TEST_F(SealedReader, EveryFailedOperationIsTold) {
  for (std::uint64_t n = 0;; ++n) {
    FaultyIo io(Fault::kIoError, n);
    try {
      bytes_in(SealedFile(io, path_, kTestKind), "/acts/a");
    } catch (const StoreError& error) {
      EXPECT_NE(std::string(error.what()).find("Input/output error"), std::string::npos)
          << io.hit() << ": " << error.what();
      continue;
    }
    EXPECT_EQ(io.hit(), "") << "no error is swallowed";
    EXPECT_GT(n, 10U);
    return;
  }
}

TEST_F(SealedReader, WhatIsMissingOrOfAnotherKindIsTold) {
  const SealedFile file = open();
  const auto expect = [&](const std::function<void()>& action, const std::string& wanted) {
    const std::string told = refusal_of(action);
    EXPECT_NE(told.find("a.h5 is not a test file: " + wanted), told.npos) << told;
  };
  expect([&] { file.dataset("/acts/nothing"); }, "/acts/nothing is missing");
  expect([&] { file.dataset("/acts"); }, "at /acts there is something else; wanted a dataset");
  expect([&] { file.members("/acts/a"); }, "at /acts/a there is something else; wanted a group");
  expect([&] { file.texts("/acts/a"); }, "at /acts/a there is something else; wanted a list");
  expect([&] { file.attribute<double>("/meta", "norm"); }, "/meta has no attribute norm");
  expect([&] { file.attribute<double>("/meta", "kind"); }, "/meta: its attribute kind is of");
  std::vector<std::byte> room(3);
  EXPECT_THROW(file.read(file.dataset("/acts/a"), room), ArgumentError);
}

TEST_F(SealedReader, LinksThatLeadAwayAreRefused) {
  expect_refused_after(
      [](hid_t file) { H5Lcreate_soft("/acts/a", file, "/acts/s", H5P_DEFAULT, H5P_DEFAULT); },
      "\"s\" in /acts is a link to elsewhere");
  expect_refused_after(
      [](hid_t file) {
        H5Lcreate_external("b.h5", "/x", file, "/acts/e", H5P_DEFAULT, H5P_DEFAULT);
      },
      "\"e\" in /acts is a link to elsewhere");
  expect_refused_after(
      [](hid_t file) { H5Lcreate_hard(file, "/", file, "/acts/root", H5P_DEFAULT, H5P_DEFAULT); },
      "is a group with two names");
}

TEST_F(SealedReader, GroupsWithoutEndAreRefused) {
  expect_refused_after(
      [](hid_t file) {
        std::string path = "/acts";
        for (int i = 0; i < 20; ++i)
          H5Gclose(H5Gcreate2(file, (path += "/g").c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
      },
      "lies too deep");
}

TEST_F(SealedReader, OtherTypesSizesAndLayoutsAreRefused) {
  const auto expect = [&](hid_t type, const std::vector<hsize_t>& shape, const char* wanted,
                          const std::function<void(hid_t)>& settings = {}) {
    expect_refused_after(
        [&](hid_t file) {
          const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
          if (settings) settings(creation);
          make_dataset(file, "/acts/x", type, shape, creation);
          H5Pclose(creation);
        },
        wanted);
  };
  expect(H5T_IEEE_F32BE, {2}, "the type of /acts/x is none that bezel writes");
  expect(H5T_STD_U16LE, {2}, "the type of /acts/x is none that bezel writes");
  expect(H5T_C_S1, {2}, "the type of /acts/x is none that bezel writes");
  expect(H5T_IEEE_F32LE, {hsize_t{1} << 40}, "claims 4398046511104 bytes, more than the file has");
  expect(H5T_IEEE_F32LE, {hsize_t{1} << 31, hsize_t{1} << 31, 4}, "claims more than the file has");
  expect(H5T_IEEE_F32LE, {2}, "is stored in pieces or elsewhere", [](hid_t creation) {
    const hsize_t n = 2;
    H5Pset_chunk(creation, 1, &n);
  });
  expect(H5T_IEEE_F32LE, {2}, "is stored in pieces or elsewhere",
         [](hid_t creation) { H5Pset_external(creation, "other", 0, 8); });
  expect_refused_after(
      [](hid_t file) {
        const hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
        H5Tset_size(type, 8);
        const hid_t made = H5Acreate_by_name(file, "/acts/a", "dtype", type, space, H5P_DEFAULT,
                                             H5P_DEFAULT, H5P_DEFAULT);
        H5Awrite(made, type, "bfloat16");
        H5Aclose(made);
        H5Sclose(space);
        H5Tclose(type);
      },
      "the type of /acts/a is none that bezel writes");
  expect_refused_after(
      [](hid_t file) {
        const hid_t type = H5Tcopy(H5T_STD_I32LE);
        H5Tcommit2(file, "/acts/x", type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        H5Tclose(type);
      },
      "/acts/x is neither group nor dataset");
}

TEST_F(SealedReader, AttributesOfOtherKindsAreRefused) {
  const auto add = [](hid_t file, hid_t type, hid_t space) {
    H5Aclose(
        H5Acreate_by_name(file, "/meta", "x", type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(space);
  };
  const std::array<hsize_t, 2> square = {2, 2};
  expect_refused_after(
      [&](hid_t file) { add(file, H5T_STD_I64LE, H5Screate_simple(2, square.data(), nullptr)); },
      "/meta: its attribute x is of a kind");
  expect_refused_after([&](hid_t file) { add(file, H5T_STD_REF_OBJ, H5Screate(H5S_SCALAR)); },
                       "/meta: its attribute x is of a kind");
}

TEST_F(SealedReader, AHeapOfTextsThatLeadsElsewhereIsRefused) {
  const std::string bytes = whole_.substr(0, whole_.size() - kSealBytes);
  const std::size_t heap = bytes.find("GCOL");
  ASSERT_NE(heap, bytes.npos);
  for (const std::size_t place : {heap + 8, heap + 16, heap + 24, heap + 29}) {
    std::string changed = bytes;  // the collection's size, an object's number and size
    changed[place] = static_cast<char>(changed[place] ^ 0x40);
    reseal(changed);
    expect_refused("a heap of texts in it is damaged");
  }
  const std::string descriptor = std::string("\3\0\0\0", 4);  // of "one": length, address, number
  std::size_t words = bytes.npos;
  for (auto at = bytes.find(descriptor); at != bytes.npos; at = bytes.find(descriptor, at + 1))
    if (bytes.compare(at + 16, 4, std::string(4, '\0')) == 0 &&  // then "", in the same heap
        bytes.substr(at + 4, 8) == bytes.substr(at + 20, 8))
      words = at;
  ASSERT_NE(words, bytes.npos);
  for (const std::size_t place : {words + 1, words + 4, words + 10, words + 13}) {
    std::string changed = bytes;
    changed[place] = static_cast<char>(changed[place] ^ 0x40);
    reseal(changed);
    expect_refused("a heap of texts in it is damaged");
  }
}

TEST_F(SealedReader, RubbishUnderARightSealNeverDoesMoreThanRefuse) {
  auto entries = small_entries();
  for (const char* group : {"/meta/", "/acts/"})  // so many that no checksum guards their names
    for (int i = 0; i < 12; ++i)
      entries.emplace_back(SealedValues{.path = group + std::string("member ") + std::to_string(i),
                                        .shape = {4},
                                        .bytes = std::get<SealedValues>(entries[3]).bytes});
  write_sealed(*io_, path_, entries);
  unseal(path_);
  const std::string bytes = bytes_of(path_);
  std::size_t n_refused = 0;
  for (unsigned seed = 0; seed < 2000; ++seed) {
    std::mt19937 random(seed);
    std::string changed = bytes;
    for (unsigned i = 0; i < 1 + seed % 3 * 20; ++i) {
      char& at = changed[random() % changed.size()];
      at = static_cast<char>(at ^ (1U << (random() % 8)));
    }
    reseal(changed);
    try {
      open();
    } catch (const StoreError&) {
      ++n_refused;
    }
  }
  EXPECT_GT(n_refused, 200U);
}

}  // namespace
}  // namespace bezel::store
