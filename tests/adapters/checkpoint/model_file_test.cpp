#include "bezel/adapters/checkpoint/model_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <utility>

#include "bezel/hooks/error.h"
#include "support.h"

namespace bezel::checkpoint {
namespace {

std::string read(const ModelFile& file, std::uint64_t offset, std::size_t n) {
  std::string bytes(n, '\0');
  file.read_at(offset, std::as_writable_bytes(std::span(bytes)));
  return bytes;
}
std::string read(const std::filesystem::path& path) {
  const ModelFile file = ModelFile::open(path);
  return read(file, 0, file.size());
}
Refusal open_refusal(const std::filesystem::path& path) {
  return refusal_of([&] { ModelFile::open(path); });
}

TEST(ModelFile, NamesThatCouldLeadOutOfAFolderAreNotPlain) {
  for (const std::string_view name : {"a", "model.safetensors", "...", "..a", ".hidden", "a b"})
    EXPECT_TRUE(is_plain_file_name(name)) << name;
  for (const std::string_view name :
       {std::string_view(""), std::string_view("."), std::string_view(".."),
        std::string_view("a/b"), std::string_view("/a"), std::string_view("a/"),
        std::string_view("../a"), std::string_view("a\0b", 3)})
    EXPECT_FALSE(is_plain_file_name(name)) << name;
}

TEST(ModelFile, AnyPartOfAFileCanBeRead) {
  const TempFolder folder;
  const ModelFile file = ModelFile::open(folder.write("f", "0123456789"));
  EXPECT_EQ(file.size(), 10u);
  EXPECT_EQ(file.path(), folder / "f");
  EXPECT_EQ(read(file, 0, 10), "0123456789");
  EXPECT_EQ(read(file, 3, 4), "3456");
  EXPECT_EQ(read(file, 10, 0), "");
}

TEST(ModelFile, WhatLiesBehindItsEndIsRefused) {
  const TempFolder folder;
  const ModelFile file = ModelFile::open(folder.write("f", "0123456789"));
  const std::string start = (folder / "f").native() + ": found 10 bytes, expected ";
  for (const auto& [offset, n] : std::vector<std::pair<std::uint64_t, std::size_t>>{
           {10, 1}, {9, 2}, {11, 0}, {0, 11}, {~0ULL, 1}, {~0ULL - 3, 8}, {1ULL << 63, 1}}) {
    const Refusal refusal = refusal_of([&, offset = offset, n = n] { read(file, offset, n); });
    EXPECT_EQ(refusal.type, "FormatError") << offset;
    EXPECT_TRUE(refusal.message.starts_with(start)) << refusal.message;
  }
}

TEST(ModelFile, AFileThatChangesItsLengthIsNoLongerRead) {
  const TempFolder folder;
  const ModelFile file = ModelFile::open(folder.write("f", "0123456789"));
  for (const std::uintmax_t n_bytes : {9, 11}) {
    std::filesystem::resize_file(folder / "f", n_bytes);
    const Refusal refusal = refusal_of([&] { read(file, 0, 1); });
    EXPECT_EQ(refusal.type, "FormatError");
    EXPECT_NE(refusal.message.find("expected the 10 it had when it was opened"), std::string::npos)
        << refusal.message;
  }
}

TEST(ModelFile, AFileThatIsReplacedStaysTheOneThatWasOpened) {
  const TempFolder folder;
  const ModelFile file = ModelFile::open(folder.write("f", "old"));
  std::filesystem::rename(folder.write("g", "new!"), folder / "f");
  EXPECT_EQ(read(file, 0, 3), "old");
}

TEST(ModelFile, AMovedFileReadsOn) {
  const TempFolder folder;
  ModelFile first = ModelFile::open(folder.write("f", "abc"));
  const ModelFile second = std::move(first);
  EXPECT_EQ(read(second, 0, 3), "abc");
}

TEST(ModelFile, LinksInsideTheModelFolderAreFollowed) {
  const TempFolder folder;
  folder.write("model/deep/real", "inside");
  folder.link("model/near", "deep/real");
  folder.link("model/round", "../model/deep/real");
  folder.link("model/absolute", folder / "model/deep/real");
  folder.link("model/twice", "near");
  folder.link("way_in", "model");
  for (const char* name : {"near", "round", "absolute", "twice"}) {
    EXPECT_EQ(read(folder / "model" / name), "inside") << name;
    EXPECT_EQ(read(folder / "way_in" / name), "inside") << "through a link to the folder";
  }
}

TEST(ModelFile, LinksOutOfTheModelFolderAreRefused) {
  const TempFolder folder;
  const auto secret = folder.write("secret", "outside");
  folder.write("model-2/weights", "a neighbour whose name begins like the folder's");
  folder.write("model/deep/real", "inside");
  folder.link("model/up", "../secret");
  folder.link("model/absolute", secret);
  folder.link("model/out_and_in", "out/model/deep/real");
  folder.link("model/out", "..");
  folder.link("model/neighbour", "../model-2/weights");
  folder.link("model/twice", "up");
  for (const char* name : {"up", "absolute", "neighbour", "twice"}) {
    const Refusal refusal = open_refusal(folder / "model" / name);
    EXPECT_EQ(refusal.type, "FormatError") << name;
    EXPECT_TRUE(refusal.message.starts_with((folder / "model" / name).native() +
                                            ": found a link to " + folder.path().native()))
        << refusal.message;
    EXPECT_NE(refusal.message.find(", expected one that stays in the model folder"),
              std::string::npos);
  }
  EXPECT_EQ(read(folder / "model/out_and_in"), "inside") << "where it ends is what counts";
}

// models--org--name: blobs/<hash> hold the bytes, snapshots/<revision>/<file> are links to them.
TEST(ModelFile, ASnapshotInAHubCacheMayLinkToItsOwnBlobs) {
  const TempFolder cache;
  cache.write("models--o--m/blobs/hash", "weights");
  cache.link("models--o--m/snapshots/rev/f", "../../blobs/hash");
  cache.link("models--o--m/snapshots/rev/sub/f", "../../../blobs/hash");
  EXPECT_EQ(read(cache / "models--o--m/snapshots/rev/f"), "weights");
  EXPECT_EQ(read(cache / "models--o--m/snapshots/rev/sub/f"), "weights");
}

TEST(ModelFile, ASnapshotMayLinkNowhereElse) {
  const TempFolder cache;
  cache.write("secret", "outside");
  cache.write("models--o--other/blobs/hash", "of another model");
  cache.write("models--o--m/blobs/hash", "weights");
  cache.write("models--o--m/refs/main", "rev");
  cache.write("models--o--m/snapshots/rev2/f", "another revision");
  const std::string rev = "models--o--m/snapshots/rev/";
  cache.link(rev + "a", "../../../secret");
  cache.link(rev + "b", "../../../models--o--other/blobs/hash");
  cache.link(rev + "c", "../../refs/main");
  cache.link(rev + "d", "../rev2/f");
  cache.link("models--o--m/blobs/chain", "../../secret");
  cache.link(rev + "e", "../../blobs/chain");
  for (const char* name : {"a", "b", "c", "d", "e"})
    EXPECT_EQ(open_refusal(cache / (rev + name)).type, "FormatError") << name;
}

TEST(ModelFile, BlobsBesideAFolderThatIsNoSnapshotAreOutside) {
  const TempFolder folder;
  folder.write("models--o--m/blobs/hash", "x");
  folder.write("plain/blobs/hash", "x");
  folder.link("models--o--m/copies/rev/f", "../../blobs/hash");
  folder.link("plain/snapshots/rev/f", "../../blobs/hash");
  EXPECT_EQ(open_refusal(folder / "models--o--m/copies/rev/f").type, "FormatError");
  EXPECT_EQ(open_refusal(folder / "plain/snapshots/rev/f").type, "FormatError");
}

TEST(ModelFile, ALinkToNothingSaysWhereItPoints) {
  const TempFolder folder;
  const auto link = folder.link("f", "../blobs/gone");
  const Refusal refusal = open_refusal(link);
  EXPECT_EQ(refusal.type, "CheckpointError");
  EXPECT_TRUE(refusal.message.starts_with(link.native() + ": found a link to ../blobs/gone ("))
      << refusal.message;
  EXPECT_TRUE(refusal.message.ends_with(", expected a file; is the download complete?"));
  folder.link("a", "b");
  EXPECT_EQ(open_refusal(folder.link("b", "a")).type, "CheckpointError") << "links in a circle";
}

TEST(ModelFile, WhatIsNoRegularFileIsRefusedAtOnce) {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "sub");
  EXPECT_EQ(open_refusal(folder / "sub").message,
            (folder / "sub").native() + ": found a folder, expected a regular file");
  const auto fifo = folder / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_EQ(open_refusal(fifo).message, fifo.native() + ": found a FIFO, expected a regular file")
      << "without waiting for a writer";
  EXPECT_EQ(open_refusal("/dev/null").message,
            "/dev/null: found a device, expected a regular file");
}

TEST(ModelFile, WhatCannotBeOpenedIsACheckpointError) {
  const TempFolder folder;
  const auto file = folder.write("f", "x");
  for (const auto& path :
       {folder / "none", folder / "no_folder/f", file / "f", folder / std::string(300, 'n')}) {
    const Refusal refusal = open_refusal(path);
    EXPECT_EQ(refusal.type, "CheckpointError") << refusal.message;
    EXPECT_TRUE(refusal.message.starts_with(path.native() + ": found nothing that can be read ("))
        << refusal.message;
  }
  for (const auto& name : {"", ".", "..", "a/b"})
    EXPECT_EQ(refusal_of([&] { ModelFile::open(folder.path(), name); }).type, "FormatError");
}

}  // namespace
}  // namespace bezel::checkpoint
