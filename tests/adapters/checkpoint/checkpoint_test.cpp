#include "bezel/adapters/checkpoint/checkpoint.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "bezel/adapters/checkpoint/index.h"
#include "bezel/hooks/error.h"
#include "support.h"

namespace bezel::checkpoint {
namespace {

const std::string kSingle = "model.safetensors";
const std::string kIndex = std::string(kIndexName);

// A file of U8 tensors, one after the other: name and bytes of each.
std::string u8_file(const std::vector<std::pair<std::string, std::string>>& tensors) {
  std::string header = "{", data;
  for (const auto& [name, bytes] : tensors) {
    const auto begin = std::to_string(data.size());
    data += bytes;
    header += (header.size() > 1 ? "," : "") +
              entry(name, "U8", "[" + std::to_string(bytes.size()) + "]",
                    "[" + begin + "," + std::to_string(data.size()) + "]");
  }
  return file_image(header + "}", data);
}
std::string index_of(const std::map<std::string, std::string>& shard_of) {
  std::string map;
  for (const auto& [name, shard] : shard_of)
    map += (map.empty() ? "" : ",") + ('"' + name + "\":\"" + shard + '"');
  return "{\"weight_map\":{" + map + "}}";
}
std::string read(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo* tensor = checkpoint.find(name);
  if (tensor == nullptr) return "(absent)";
  std::string bytes(tensor->n_bytes, '\0');
  checkpoint.read(*tensor, std::as_writable_bytes(std::span(bytes)));
  return bytes;
}
void write_two_shards(const TempFolder& folder) {
  folder.write("m-1.safetensors", u8_file({{"a", "AAAA"}, {"b", "BB"}}));
  folder.write("m-2.safetensors", u8_file({{"c", "CCC"}}));
  folder.write(
      kIndex,
      index_of({{"a", "m-1.safetensors"}, {"b", "m-1.safetensors"}, {"c", "m-2.safetensors"}}));
}
Refusal open_refusal(const TempFolder& folder, const CheckpointLimits& limits = {}) {
  return refusal_of([&] { Checkpoint::open(folder.path(), limits); });
}

TEST(Checkpoint, OneFileIsAModel) {
  const TempFolder folder;
  folder.write(kSingle, u8_file({{"a", "AAAA"}, {"b", "BB"}, {"none", ""}}));
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  EXPECT_EQ(checkpoint.folder(), folder.path());
  EXPECT_EQ(checkpoint.tensors().size(), 3u);
  EXPECT_EQ(read(checkpoint, "a"), "AAAA");
  EXPECT_EQ(read(checkpoint, "b"), "BB");
  EXPECT_EQ(read(checkpoint, "none"), "");
  EXPECT_EQ(checkpoint.find("A"), nullptr);
}

TEST(Checkpoint, ShardsAreOneModel) {
  const TempFolder folder;
  write_two_shards(folder);
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  EXPECT_EQ(checkpoint.tensors().size(), 3u);
  EXPECT_EQ(read(checkpoint, "a") + read(checkpoint, "b") + read(checkpoint, "c"), "AAAABBCCC");
  EXPECT_EQ(checkpoint.find("c")->file, folder / "m-2.safetensors");
}

TEST(Checkpoint, TheSingleFileComesFirstAsInTransformers) {
  const TempFolder folder;
  write_two_shards(folder);
  folder.write(kSingle, u8_file({{"a", "single"}}));
  EXPECT_EQ(read(Checkpoint::open(folder.path()), "a"), "single");
}

TEST(Checkpoint, AHubSnapshotIsAModel) {
  const TempFolder cache;
  const std::string entry_of_cache = "models--google--gemma-4",
                    rev = entry_of_cache + "/snapshots/r/";
  cache.write(entry_of_cache + "/blobs/1", u8_file({{"a", "AAAA"}}));
  cache.write(entry_of_cache + "/blobs/2", index_of({{"a", "m-1.safetensors"}}));
  cache.link(rev + "m-1.safetensors", "../../blobs/1");
  cache.link(rev + kIndex, "../../blobs/2");
  EXPECT_EQ(read(Checkpoint::open(cache / rev), "a"), "AAAA");
}

TEST(Checkpoint, TensorsThatNothingUsesMayHaveAnyTypeAndNeedNotBeInTheIndex) {
  const TempFolder folder;
  folder.write("m.safetensors", file_image("{" + entry("a", "U8", "[2]", "[0,2]") + "," +
                                               entry("extra", "F8_E4M3", "[2]", "[2,4]") + "," +
                                               entry("odd", "F4", "[2]", "[4,5]") + "}",
                                           "AAxxo"));
  folder.write(kIndex, index_of({{"a", "m.safetensors"}}));
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  EXPECT_EQ(read(checkpoint, "a"), "AA");
  EXPECT_EQ(checkpoint.find("extra")->dtype, DType::kOther);
  EXPECT_EQ(read(checkpoint, "extra"), "xx");
}

TEST(Checkpoint, AFolderWithoutWeightsSaysWhatItHoldsAndWhatToDo) {
  const std::vector<std::pair<std::string, std::string>> hints = {
      {"adapter_model.safetensors", "merge this adapter"},
      {"model-00001-of-00002.safetensors", "shards need their model.safetensors.index.json"},
      {"pytorch_model.bin", "convert it to safetensors"},
      {"consolidated.00.pth", "convert it to safetensors"},
      {"gemma.gguf", "bezel reads the safetensors of the original model"}};
  for (const auto& [name, advice] : hints) {
    const TempFolder folder;
    folder.write("config.json", "{}");
    folder.write(name, "");
    const Refusal refusal = open_refusal(folder);
    EXPECT_EQ(refusal.type, "UnsupportedError") << name;
    EXPECT_TRUE(refusal.message.starts_with(folder.path().native() + ": found \"" + name +
                                            "\", expected model.safetensors or " + kIndex + "; " +
                                            advice))
        << refusal.message;
  }
  const TempFolder empty;
  EXPECT_EQ(open_refusal(empty).type, "FormatError");
  EXPECT_EQ(open_refusal(empty).message,
            empty.path().native() + ": found no weights, expected model.safetensors or " + kIndex);
}

TEST(Checkpoint, WhatIsNoFolderIsRefused) {
  const TempFolder folder;
  const auto file = folder.write("model.safetensors", u8_file({}));
  const auto open = [](const std::filesystem::path& path) {
    return refusal_of([&] { Checkpoint::open(path); });
  };
  EXPECT_EQ(open(file).message,
            file.native() + ": found a file, expected the folder that holds a model");
  EXPECT_EQ(open(folder / "none").type, "CheckpointError");
  EXPECT_TRUE(
      open(folder / "none")
          .message.starts_with((folder / "none").native() + ": found nothing (No such file"))
      << open(folder / "none").message;
}

// One row: the index in place of the right one, and what the refusal says.
TEST(Checkpoint, AnIndexThatDoesNotMatchItsShardsIsRefused) {
  const std::string one = "m-1.safetensors", two = "m-2.safetensors";
  const std::vector<Case> cases = {
      {"shard missing", index_of({{"a", one}, {"c", "m-3.safetensors"}}),
       "weight_map: shard \"m-3.safetensors\"", "no such file", "it beside the index; is the"},
      {"in the other shard", index_of({{"a", two}, {"c", one}}), "weight_map: tensor \"a\"",
       "it in", "it in \"m-2.safetensors\" as the index says"},
      {"in no shard", index_of({{"a", one}, {"d", one}}), "weight_map: tensor \"d\"",
       "it in no shard", "it in \"m-1.safetensors\" as the index says"},
      {"long shard name", index_of({{"a", std::string(300, 'n') + ".safetensors"}}),
       "weight_map: shard \"" + std::string(80, 'n') + "...\"", "no such file", "it beside"},
  };
  const TempFolder folder;
  write_two_shards(folder);
  expect_refusals(cases, (folder / kIndex).native(), [&](const std::string& index) {
    folder.write(kIndex, index);
    Checkpoint::open(folder.path());
  });
}

TEST(Checkpoint, ATensorInTwoShardsIsRefused) {
  const TempFolder folder;
  write_two_shards(folder);
  folder.write("m-2.safetensors", u8_file({{"c", "CCC"}, {"a", "other"}}));
  EXPECT_EQ(open_refusal(folder).message,
            (folder / "m-2.safetensors").native() +
                ": tensor \"a\": found a second one, expected it only in " +
                (folder / "m-1.safetensors").native());
}

TEST(Checkpoint, ADamagedShardIsNamed) {
  const TempFolder folder;
  write_two_shards(folder);
  folder.write("m-2.safetensors", u8_file({{"c", "CCC"}}) + "x");
  EXPECT_EQ(open_refusal(folder).message,
            (folder / "m-2.safetensors").native() +
                ": data: found 1 bytes behind the last tensor, expected none");
}

TEST(Checkpoint, ShardsThatAreLinksObeyTheRuleOfLinks) {
  const TempFolder folder;
  write_two_shards(folder);
  const TempFolder elsewhere;
  const auto outside = elsewhere.write("m-2.safetensors", u8_file({{"c", "CCC"}}));
  std::filesystem::remove(folder / "m-2.safetensors");
  folder.link("m-2.safetensors", outside);
  EXPECT_EQ(open_refusal(folder).type, "FormatError");
  std::filesystem::remove(folder / "m-2.safetensors");
  folder.link("m-2.safetensors", "gone");
  EXPECT_NE(open_refusal(folder).message.find("found a link to gone"), std::string::npos);
}

TEST(Checkpoint, MoreShardsOrTensorsThanTheLimitsAreRefused) {
  const TempFolder folder;
  write_two_shards(folder);
  EXPECT_NO_THROW(Checkpoint::open(folder.path(), {.max_shards = 2, .max_tensors = 3}));
  const Refusal shards = open_refusal(folder, {.max_shards = 1});
  EXPECT_EQ(shards.type, "ResourceLimitError");
  EXPECT_EQ(shards.message,
            (folder / kIndex).native() + ": weight_map: found 2 shards, expected at most 1");
  const Refusal tensors = open_refusal(folder, {.max_tensors = 2});
  EXPECT_EQ(tensors.type, "ResourceLimitError");
  EXPECT_EQ(tensors.message,
            (folder / "m-2.safetensors").native() + ": found too many tensors, expected at most 2");
}

TEST(Checkpoint, APartOfATensorIsReadAndNothingBeyondIt) {
  const TempFolder folder;
  folder.write(kSingle, u8_file({{"a", "0123456789"}, {"b", "neighbour"}}));
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  const TensorInfo& a = *checkpoint.find("a");
  const auto part = [&](std::uint64_t begin, std::size_t n) {
    std::string bytes(n, '\0');
    checkpoint.read(a, begin, std::as_writable_bytes(std::span(bytes)));
    return bytes;
  };
  EXPECT_EQ(part(3, 4), "3456");
  EXPECT_EQ(part(10, 0), "");
  for (const auto& [begin, n] :
       std::vector<std::pair<std::uint64_t, std::size_t>>{{0, 11}, {9, 2}, {11, 0}, {~0ULL, 2}}) {
    const Refusal refusal = refusal_of([&, begin = begin, n = n] { part(begin, n); });
    EXPECT_EQ(refusal.type, "ArgumentError");
  }
  std::string small(9, '\0'), large(11, '\0');
  for (std::string* bytes : {&small, &large})
    EXPECT_EQ(
        refusal_of([&] { checkpoint.read(a, std::as_writable_bytes(std::span(*bytes))); }).type,
        "ArgumentError");
}

TEST(Checkpoint, ATensorOfAnotherModelIsTheCallersMistake) {
  const TempFolder mine, other;
  mine.write(kSingle, u8_file({{"a", "A"}}));
  other.write(kSingle, u8_file({{"a", "B"}}));
  const TensorInfo foreign = *Checkpoint::open(other.path()).find("a");
  const Checkpoint checkpoint = Checkpoint::open(mine.path());
  std::byte byte;
  EXPECT_EQ(refusal_of([&] { checkpoint.read(foreign, std::span(&byte, 1)); }).type,
            "ArgumentError");
}

TEST(Checkpoint, AFileCutAfterItWasOpenedIsNotedWhenItIsRead) {
  const TempFolder folder;
  folder.write(kSingle, u8_file({{"a", "0123456789"}}));
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  const auto n_bytes = std::filesystem::file_size(folder / kSingle);
  std::filesystem::resize_file(folder / kSingle, n_bytes - 1);
  EXPECT_EQ(refusal_of([&] { read(checkpoint, "a"); }).type, "FormatError");
}

TEST(Checkpoint, ThreadsReadCopiesAtTheSameTime) {
  const TempFolder folder;
  std::vector<std::pair<std::string, std::string>> tensors;
  for (int i = 0; i < 50; ++i)
    tensors.emplace_back("t" + std::to_string(i),
                         std::string(1000 + i, static_cast<char>('0' + i)));
  folder.write(kSingle, u8_file(tensors));
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  std::atomic<int> n_wrong = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, copy = checkpoint] {
      for (const auto& [name, bytes] : tensors) n_wrong += read(copy, name) != bytes;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(n_wrong, 0);
}

}  // namespace
}  // namespace bezel::checkpoint
