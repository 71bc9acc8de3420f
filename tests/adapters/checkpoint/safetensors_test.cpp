#include "bezel/adapters/checkpoint/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "bezel/adapters/checkpoint/model_file.h"
#include "oracle.h"
#include "support.h"

namespace bezel::checkpoint {
namespace {

const std::string kX = entry("x", "F32", "[2]", "[0,8]");

// Writes the file, reads its header, checks it against the oracle.
std::map<std::string, TensorInfo> read(const std::string& header, const std::string& data) {
  const TempFolder folder;
  const auto file = folder.write("model.safetensors", file_image(header, data));
  const auto tensors = read_header(file);
  EXPECT_EQ(find_fault(tensors, header.size(), kPrefixBytes + header.size() + data.size()), "");
  std::map<std::string, TensorInfo> by_name;
  for (const TensorInfo& tensor : tensors) {
    EXPECT_EQ(tensor.file, file);
    by_name[tensor.name] = tensor;
  }
  return by_name;
}

std::string data(std::size_t n) { return std::string(n, 'd'); }

TEST(Safetensors, ATensorIsWhereItsHeaderSays) {
  const std::string header =
      "{" + entry("w", "BF16", "[2,3]", "[0,12]") + "," + entry("s", "F64", "[]", "[12,20]") + "}";
  const auto tensors = read(header, data(20));
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(tensors.at("w").dtype, DType::kBF16);
  EXPECT_EQ(tensors.at("w").dtype_name, "BF16");
  EXPECT_EQ(tensors.at("w").shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(tensors.at("w").offset, 8 + header.size());
  EXPECT_EQ(tensors.at("w").n_bytes, 12u);
  EXPECT_TRUE(tensors.at("s").shape.empty());
  EXPECT_EQ(tensors.at("s").offset, 8 + header.size() + 12);
  EXPECT_EQ(tensors.at("s").n_bytes, 8u);
}

TEST(Safetensors, TensorsAreGivenInTheOrderOfTheirBytes) {
  const std::string header = "{" + entry("a", "U8", "[1]", "[3,4]") + "," +
                             entry("b", "U8", "[3]", "[0,3]") + "," +
                             entry("empty", "U8", "[0]", "[3,3]") + "}";
  const TempFolder folder;
  const auto tensors = read_header(folder.write("f.safetensors", file_image(header, "abcd")));
  ASSERT_EQ(tensors.size(), 3u);
  EXPECT_EQ(tensors[0].name, "b");
  EXPECT_EQ(tensors[1].name, "empty");
  EXPECT_EQ(tensors[2].name, "a");
}

// Each line was tried on the reference implementation, which accepts it too.
TEST(Safetensors, FilesThatTheReferenceAcceptsAreAccepted) {
  const std::string empty = entry("z", "F32", "[0]", "[4,4]");
  const std::string a = entry("a", "F32", "[1]", "[0,4]"), b = entry("b", "F32", "[1]", "[4,8]");
  EXPECT_EQ(read("{}", "").size(), 0u) << "no tensors";
  EXPECT_EQ(read(" \n\r\t{" + kX + "}", data(8)).size(), 1u) << "blanks before";
  EXPECT_EQ(read("{" + kX + "}  \n ", data(8)).size(), 1u) << "blanks behind";
  EXPECT_EQ(read("{" + b + "," + a + "}", data(8)).size(), 2u) << "not sorted";
  EXPECT_EQ(read("{" + a + "," + empty + "," + b + "}", data(8)).size(), 3u) << "empty between";
  EXPECT_EQ(read("{" + entry("z", "F32", "[0]", "[0,0]") + "}", "").size(), 1u) << "only empty";
  EXPECT_EQ(read("{" + entry("z", "F32", "[3,0,5]", "[0,0]") + "}", "").size(), 1u);
  EXPECT_EQ(read("{" + entry("", "F32", "[2]", "[0,8]") + "}", data(8)).size(), 1u) << "no name";
  EXPECT_EQ(read("{" + entry("a\\u0000b", "F32", "[2]", "[0,8]") + "}", data(8)).size(), 1u);
  EXPECT_EQ(read(R"({"__metadata__":{"format":"pt"},)" + kX + "}", data(8)).size(), 1u);
  EXPECT_EQ(read(R"({"__metadata__":{},)" + kX + "}", data(8)).size(), 1u);
  EXPECT_EQ(read(R"({"__metadata__":null,)" + kX + "}", data(8)).size(), 1u);
  EXPECT_EQ(
      read(R"({"x":{"more":[{"y":0.5}],"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", data(8))
          .size(),
      1u)
      << "a field that the format does not know";
  EXPECT_EQ(read(R"({"x":{"\u0064type":"F32","shape":[2],"data_offsets":[0,8]}})", data(8)).size(),
            1u);
}

TEST(Safetensors, EveryTypeOfTheReferenceIsAcceptedWithItsSize) {
  const std::map<std::string, std::pair<DType, int>> bytes_of_8 = {
      {"BOOL", {DType::kBool, 8}},     {"U8", {DType::kU8, 8}},
      {"I8", {DType::kI8, 8}},         {"I16", {DType::kI16, 16}},
      {"U16", {DType::kU16, 16}},      {"I32", {DType::kI32, 32}},
      {"U32", {DType::kU32, 32}},      {"I64", {DType::kI64, 64}},
      {"U64", {DType::kU64, 64}},      {"F16", {DType::kF16, 16}},
      {"BF16", {DType::kBF16, 16}},    {"F32", {DType::kF32, 32}},
      {"F64", {DType::kF64, 64}},      {"C64", {DType::kOther, 64}},
      {"F8_E5M2", {DType::kOther, 8}}, {"F8_E4M3", {DType::kOther, 8}},
      {"F8_E8M0", {DType::kOther, 8}}, {"F8_E4M3FNUZ", {DType::kOther, 8}},
      {"F4", {DType::kOther, 4}},      {"F8_E5M2FNUZ", {DType::kOther, 8}},
      {"F6_E2M3", {DType::kOther, 6}}, {"F6_E3M2", {DType::kOther, 6}}};
  for (const auto& [name, expected] : bytes_of_8) {
    SCOPED_TRACE(name);
    const auto [dtype, n_bytes] = expected;
    const auto tensors =
        read("{" + entry("t", name, "[8]", "[0," + std::to_string(n_bytes) + "]") + "}",
             data(static_cast<std::size_t>(n_bytes)));
    EXPECT_EQ(tensors.at("t").dtype, dtype);
    EXPECT_EQ(tensors.at("t").dtype_name, name);
  }
}

TEST(Safetensors, OffsetsBeyondFourGigabytesAreExact) {
  const std::string header = "{" + entry("big", "F32", "[1073741825]", "[0,4294967300]") + "," +
                             entry("last", "U8", "[4]", "[4294967300,4294967304]") + "}";
  const TempFolder folder;
  const auto path = folder.write("model.safetensors", file_image(header, ""));
  const std::uint64_t end = 8 + header.size() + 4294967304u;
  std::filesystem::resize_file(path, end);  // a hole: no space on disk
  const auto tensors = read_header(path);
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(tensors[1].name, "last");
  EXPECT_EQ(tensors[1].offset, end - 4);
}

TEST(Safetensors, AHeaderAtTheReferencesLimitIsAcceptedAndOneByteMoreIsNot) {
  std::array<std::byte, kPrefixBytes> prefix = {};
  const auto set = [&](std::uint64_t n) { std::memcpy(prefix.data(), &n, sizeof n); };
  set(100'000'000);
  EXPECT_EQ(parse_prefix(prefix, 100'000'008, "f"), 100'000'000u);
  EXPECT_EQ(refusal_of([&] { parse_prefix(prefix, 100'000'007, "f"); }).type, "FormatError");
  set(100'000'001);
  EXPECT_EQ(refusal_of([&] { parse_prefix(prefix, 200'000'000, "f"); }).type, "ResourceLimitError");
}

TEST(Safetensors, AHeaderLongerThanItsFileIsTheCallersMistake) {
  const std::vector<std::byte> header(10);
  EXPECT_EQ(refusal_of([&] { parse_header(header, 17, "f"); }).type, "ArgumentError");
}

}  // namespace
}  // namespace bezel::checkpoint
