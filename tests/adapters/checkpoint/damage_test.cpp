// A small file cut at every length and with every bit of its header flipped.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "bezel/adapters/checkpoint/checkpoint.h"
#include "oracle.h"
#include "support.h"

namespace bezel::checkpoint {
namespace {

const std::string kHeader = R"({"__metadata__":{"format":"pt"},)" +
                            entry("model.norm.weight", "BF16", "[3]", "[24,30]") + "," +
                            entry("empty", "I64", "[0,4]", "[24,24]") + "," +
                            entry("model.w", "F32", "[2,3]", "[0,24]") + "," +
                            entry("scale", "F16", "[]", "[30,32]") + "}";
const std::string kImage = file_image(kHeader, "abcdefghijklmnopqrstuvwxyz012345");

struct Damage {
  int n_accepted = 0;
  int n_refused = 0;
};

// Opens a folder with this file as users do, reads whatever it accepts, and checks both.
void open_damaged(const TempFolder& folder, const std::string& image, Damage& damage) {
  const auto path = folder.write("model.safetensors", image);
  try {
    const Checkpoint checkpoint = Checkpoint::open(folder.path());
    ++damage.n_accepted;
    const auto tensors = read_header(path);
    std::uint64_t n = 0;
    std::memcpy(&n, image.data(), sizeof n);
    ASSERT_EQ(find_fault(tensors, n, image.size()), "");
    ASSERT_EQ(tensors.size(), checkpoint.tensors().size());
    for (const TensorInfo& tensor : tensors) {
      std::string bytes(tensor.n_bytes, '\0');
      checkpoint.read(tensor, std::as_writable_bytes(std::span(bytes)));
      ASSERT_EQ(bytes, image.substr(tensor.offset, tensor.n_bytes));
    }
  } catch (const CheckpointError& error) {
    ++damage.n_refused;
    const std::string message = error.what();
    ASSERT_TRUE(message.starts_with(path.native() + ": ")) << message;
    ASSERT_TRUE(std::ranges::none_of(message, [](unsigned char c) { return c < ' '; })) << message;
  }
}

TEST(Damage, TheFileItselfIsAccepted) {
  const TempFolder folder;
  Damage damage;
  open_damaged(folder, kImage, damage);
  EXPECT_EQ(damage.n_accepted, 1);
}

TEST(Damage, AFileCutAtAnyLengthIsRefused) {
  const TempFolder folder;
  for (std::size_t length = 0; length < kImage.size(); ++length) {
    SCOPED_TRACE(length);
    Damage damage;
    open_damaged(folder, kImage.substr(0, length), damage);
    ASSERT_EQ(damage.n_refused, 1);
  }
}

TEST(Damage, AFileWithAnythingAppendedIsRefused) {
  const TempFolder folder;
  Damage damage;
  for (std::size_t n = 1; n <= 64; ++n)
    open_damaged(folder, kImage + std::string(n, '\0'), damage);
  EXPECT_EQ(damage.n_refused, 64);
}

// A flip may spell another valid file (another name, another type of the same size): then every
// tensor must still be one that shape, type and file allow.
TEST(Damage, AnyFlippedBitOfPrefixAndHeaderNeverGivesAWrongTensor) {
  const TempFolder folder;
  Damage damage;
  for (std::size_t byte = 0; byte < kPrefixBytes + kHeader.size(); ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      SCOPED_TRACE("byte " + std::to_string(byte) + ", bit " + std::to_string(bit));
      std::string image = kImage;
      image[byte] = static_cast<char>(image[byte] ^ (1 << bit));
      ASSERT_NO_FATAL_FAILURE(open_damaged(folder, image, damage));
    }
  }
  EXPECT_EQ(damage.n_accepted + damage.n_refused,
            static_cast<int>(8 * (kPrefixBytes + kHeader.size())));
  EXPECT_GT(damage.n_accepted, 100) << "names may change freely";
  EXPECT_GT(damage.n_refused, 1000);
}

TEST(Damage, NoFlippedBitOfALengthShapeOrOffsetIsAccepted) {
  const TempFolder folder;
  Damage damage;
  int n = 0;
  for (std::size_t byte = 0; byte < kPrefixBytes + kHeader.size(); ++byte) {
    const bool is_digit = byte >= kPrefixBytes && kImage[byte] >= '0' && kImage[byte] <= '9' &&
                          kImage.find_last_of(":\"", byte) != kImage.npos &&
                          kImage[kImage.find_last_of(":\"", byte)] == ':';
    if (byte >= kPrefixBytes && !is_digit) continue;
    for (int bit = 0; bit < 8; ++bit, ++n) {
      std::string image = kImage;
      image[byte] = static_cast<char>(image[byte] ^ (1 << bit));
      open_damaged(folder, image, damage);
    }
  }
  EXPECT_GT(n, 200);
  // "[0,4]" of the empty tensor may become "[0,5]": nothing else says how wide nothing is.
  EXPECT_LE(damage.n_accepted, 8);
}

}  // namespace
}  // namespace bezel::checkpoint
