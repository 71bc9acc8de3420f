// Small models cut at every length and with every bit of their headers flipped: what is still
// accepted must hold the true tensors, whatever the reader makes of the header.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <vector>

#include "bezel/adapters/checkpoint/checkpoint.h"
#include "bezel/adapters/checkpoint/index.h"
#include "bezel/hooks/error.h"
#include "oracle.h"
#include "support.h"

namespace bezel::checkpoint {
namespace {

struct Content {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::string bytes;
  auto operator<=>(const Content&) const = default;
};
using Contents = std::map<std::string, Content>;

const Contents kTruth = {{"model.w", {"F32", {2, 3}, "abcdefghijklmnopqrstuvwx"}},
                         {"empty", {"I64", {0, 4}, ""}},
                         {"model.norm.weight", {"BF16", {3}, "yz0123"}},
                         {"scale", {"F16", {}, "45"}}};

const std::string kHeader =
    R"({"__metadata__":{"format":"pt"},)" + entry("model.norm.weight", "BF16", "[3]", "[24,30]") +
    "," + entry("empty", "I64", "[0,4]", "[24,24]") + "," +
    entry("model.w", "F32", "[2,3]", "[0,24]") + "," + entry("scale", "F16", "[]", "[30,32]") + "}";
const std::string kImage = file_image(kHeader, "abcdefghijklmnopqrstuvwxyz012345");

const std::string kShard1 = "m-1.safetensors", kShard2 = "m-2.safetensors";
const std::string kIndex = std::string(kIndexName);
const std::map<std::string, std::string> kSharded = {
    {kIndex, R"({"metadata":{"total_size":32},"weight_map":{"model.w":"m-1.safetensors",)"
             R"("empty":"m-2.safetensors","scale":"m-2.safetensors",)"
             R"("model.norm.weight":"m-2.safetensors"}})"},
    {kShard1, file_image("{" + entry("model.w", "F32", "[2,3]", "[0,24]") + "}",
                         "abcdefghijklmnopqrstuvwx")},
    {kShard2, file_image("{" + entry("scale", "F16", "[]", "[6,8]") + "," +
                             entry("empty", "I64", "[0,4]", "[6,6]") + "," +
                             entry("model.norm.weight", "BF16", "[3]", "[0,6]") + "}",
                         "yz012345")}};

Contents contents_of(const Checkpoint& checkpoint) {
  Contents contents;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    Content content = {tensor.dtype_name, tensor.shape, std::string(tensor.n_bytes, '\0')};
    checkpoint.read(tensor, std::as_writable_bytes(std::span(content.bytes)));
    // "[0,4]" may have become "[0,5]": nothing in a file says how wide nothing is.
    if (tensor.shape.size() == 2 && tensor.shape[0] == 0) content.shape = {0, 4};
    contents.emplace(name, std::move(content));
  }
  return contents;
}

// At most one tensor has another name, and that one too has its own type, shape and values.
void expect_at_most_renamed(const Contents& got) {
  std::vector<Content> changed, missing;
  for (const auto& [name, content] : got)
    if (!kTruth.contains(name) || kTruth.at(name) != content) changed.push_back(content);
  for (const auto& [name, content] : kTruth)
    if (!got.contains(name) || got.at(name) != content) missing.push_back(content);
  EXPECT_LE(changed.size(), 1u);
  EXPECT_EQ(changed, missing);
}

struct Count {
  int accepted = 0, refused = 0;
};

// Opens the folder as users do and reads whatever is accepted.
void open_damaged(const TempFolder& folder, Count& count,
                  const std::function<void(const Contents&)>& expect) {
  try {
    const Checkpoint checkpoint = Checkpoint::open(folder.path());
    ++count.accepted;
    expect(contents_of(checkpoint));
  } catch (const CheckpointError& error) {
    ++count.refused;
    const std::string message = error.what();
    EXPECT_TRUE(message.starts_with(folder.path().native() + "/")) << message;
    EXPECT_TRUE(is_readable(message)) << message;
  }
}

std::string flipped(std::string image, std::size_t byte, int bit) {
  image[byte] = static_cast<char>(image[byte] ^ (1 << bit));
  return image;
}

// All files of kSharded, `name` with other bytes.
void write_sharded(const TempFolder& folder, const std::string& name, const std::string& bytes) {
  for (const auto& [file, image] : kSharded) folder.write(file, file == name ? bytes : image);
}

TEST(Damage, TheFilesThemselvesHoldTheTruth) {
  const TempFolder single, sharded;
  single.write("model.safetensors", kImage);
  write_sharded(sharded, "", "");
  EXPECT_EQ(contents_of(Checkpoint::open(single.path())), kTruth);
  EXPECT_EQ(contents_of(Checkpoint::open(sharded.path())), kTruth);
}

TEST(Damage, AFileCutAtAnyLengthIsRefused) {
  const TempFolder folder;
  Count count;
  for (std::size_t length = 0; length < kImage.size(); ++length) {
    folder.write("model.safetensors", kImage.substr(0, length));
    open_damaged(folder, count, [&](const Contents&) { ADD_FAILURE() << "cut at " << length; });
  }
  EXPECT_EQ(count.refused, static_cast<int>(kImage.size()));
}

TEST(Damage, AFileWithAnythingAppendedIsRefused) {
  const TempFolder folder;
  Count count;
  for (std::size_t n = 1; n <= 64; ++n) {
    folder.write("model.safetensors", kImage + std::string(n, '\0'));
    open_damaged(folder, count, [&](const Contents&) { ADD_FAILURE() << n << " bytes more"; });
  }
  EXPECT_EQ(count.refused, 64);
}

TEST(Damage, AnyFlippedBitOfPrefixAndHeaderRefusesTheFileOrRenamesATensor) {
  const TempFolder folder;
  Count count;
  for (std::size_t byte = 0; byte < kPrefixBytes + kHeader.size(); ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      SCOPED_TRACE("byte " + std::to_string(byte) + ", bit " + std::to_string(bit));
      const auto path = folder.write("model.safetensors", flipped(kImage, byte, bit));
      const int before = count.accepted;
      open_damaged(folder, count, expect_at_most_renamed);
      if (count.accepted > before) {
        EXPECT_EQ(find_fault(read_header(path), kHeader.size(), kImage.size()), "");
      }
    }
  }
  EXPECT_EQ(count.accepted + count.refused, static_cast<int>(8 * (kPrefixBytes + kHeader.size())));
  EXPECT_GT(count.accepted, 100) << "names may change freely";
  EXPECT_GT(count.refused, 1000);
}

TEST(Damage, AnyFlippedBitOfAnIndexedModelRefusesItOrChangesNothing) {
  const TempFolder folder;
  for (const auto& [name, image] : kSharded) {
    Count count;
    std::uint64_t n_header = 0;
    std::memcpy(&n_header, image.data(), sizeof n_header);
    const std::size_t end = name == kIndex ? image.size() : kPrefixBytes + n_header;
    for (std::size_t byte = 0; byte < end; ++byte) {
      for (int bit = 0; bit < 8; ++bit) {
        SCOPED_TRACE(name + ": byte " + std::to_string(byte) + ", bit " + std::to_string(bit));
        write_sharded(folder, name, flipped(image, byte, bit));
        open_damaged(folder, count, [](const Contents& got) { EXPECT_EQ(got, kTruth); });
      }
    }
    EXPECT_GT(count.refused, 500) << name;
  }
}

TEST(Damage, AnIndexedModelWithAFileCutAtAnyLengthIsRefused) {
  const TempFolder folder;
  for (const auto& [name, image] : kSharded) {
    Count count;
    for (std::size_t length = 0; length < image.size(); ++length) {
      write_sharded(folder, name, image.substr(0, length));
      open_damaged(folder, count, [&](const Contents&) { ADD_FAILURE() << name << length; });
    }
    EXPECT_EQ(count.refused, static_cast<int>(image.size())) << name;
  }
}

}  // namespace
}  // namespace bezel::checkpoint
