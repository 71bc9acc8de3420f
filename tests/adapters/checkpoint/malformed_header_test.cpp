// Safetensors files that must be refused: each row is a file, and what the refusal must say.
#include <gtest/gtest.h>

#include "bezel/adapters/checkpoint/safetensors.h"
#include "support.h"

namespace bezel::checkpoint {
namespace {

const std::string kData(8, 'd');

// A header that is followed by 8 bytes of data.
std::string with(const std::string& header) { return file_image(header, kData); }
// One tensor "x" with this inside.
std::string x(const std::string& fields) { return with("{\"x\":{" + fields + "}}"); }
std::string dtype(const std::string& value) {
  return x("\"dtype\":" + value + R"(,"shape":[2],"data_offsets":[0,8])");
}
std::string shape(const std::string& value) {
  return x(R"("dtype":"F32","data_offsets":[0,8],"shape":)" + value);
}
std::string offsets(const std::string& value) {
  return x(R"("dtype":"F32","shape":[2],"data_offsets":)" + value);
}
// A prefix that promises `n` bytes of header, then `rest`.
std::string claiming(std::uint64_t n, const std::string& rest) {
  std::string image(reinterpret_cast<const char*>(&n), sizeof n);
  return image + rest;
}
std::string two(const std::string& a, const std::string& b) {
  return with("{" + entry("a", "U8", a.substr(0, a.find(' ')), a.substr(a.find(' ') + 1)) + "," +
              entry("b", "U8", b.substr(0, b.find(' ')), b.substr(b.find(' ') + 1)) + "}");
}

const std::string kOk = R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
const std::string kHuge = "18446744073709551615";       // 2^64-1
const std::string kBeyond = "18446744073709551616";     // 2^64
const std::string kTooLarge = "9223372036854775808";    // 2^63

void expect_files_refused(const std::vector<Case>& cases) {
  const TempFolder folder;
  const auto path = folder / "model.safetensors";
  expect_refusals(cases, path.native() + ": ", [&](const std::string& image) {
    folder.write("model.safetensors", image);
    read_header(path);
  });
}

TEST(MalformedHeader, FilesThatCannotHoldTheirHeaderAreRefused) {
  expect_files_refused({
      {"empty file", "", "FormatError", {"found 0 bytes", "download complete?"}},
      {"7 bytes", "1234567", "FormatError", {"found 7 bytes", "download complete?"}},
      {"prefix only, header of 0", claiming(0, ""), "FormatError", {"header: byte 1", "not JSON"}},
      {"header of 0 before data", claiming(0, kData), "FormatError", {"header", "not JSON"}},
      {"prefix only", claiming(1, ""), "FormatError", {"header of 1 bytes in a file of 8 bytes"}},
      {"one byte short", claiming(3, "{}"), "FormatError", {"header of 3 bytes", "of 10 bytes"}},
      {"header far beyond the end", claiming(99'999'999, "{}"), "FormatError", {"of 99999999"}},
      {"above the limit", claiming(100'000'001, "{}"), "ResourceLimitError", {"of 100000001"}},
      {"2^32", claiming(1ULL << 32, "{}"), "ResourceLimitError", {"4294967296", "100000000"}},
      {"2^63", claiming(1ULL << 63, "{}"), "ResourceLimitError", {kTooLarge, "100000000"}},
      {"2^64-1", claiming(~0ULL, "{}"), "ResourceLimitError", {kHuge, "100000000"}},
      {"2^64-8: wraps to 0", claiming(~7ULL, "{}"), "ResourceLimitError", {"limit"}},
      {"big-endian length", std::string("\0\0\0\0\0\0\0\2{}", 10), "ResourceLimitError", {"limit"}},
      {"Git LFS pointer",
       "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
       "FormatError",
       {"Git LFS pointer", "git lfs pull"}},
      {"PyTorch zip", "PK\x03\x04\x14\x08\x08\x08 archive/data.pkl", "FormatError", {"convert"}},
      {"GGUF", "GGUF\x03 and some more", "FormatError", {"GGUF"}},
      {"web page", "<!DOCTYPE html><html>", "FormatError", {"web page"}},
      {"bare JSON", kOk, "FormatError", {"JSON text"}},
  });
}

TEST(MalformedHeader, HeadersThatAreNotAnObjectOfTensorsAreRefused) {
  expect_files_refused({
      {"array", with("[]"), "FormatError", {"header: found an array of 0", "an object"}},
      {"string", with("\"x\""), "FormatError", {"header: found \"x\" (string)"}},
      {"number", with("7"), "FormatError", {"header: found 7 (integer)"}},
      {"null", with("null"), "FormatError", {"header: found null"}},
      {"not JSON", with("{]"), "FormatError", {"header: byte 2: not JSON"}},
      {"cut", with(kOk.substr(0, 40)), "FormatError", {"header: byte 41: not JSON"}},
      {"text behind", with(kOk + "x"), "FormatError", {"header: byte 55: not JSON"}},
      {"NUL behind", with(kOk + std::string(1, '\0')), "FormatError", {"byte 54: found NUL"}},
      {"NUL, then more", with(kOk + std::string("\0{", 2)), "FormatError", {"found NUL"}},
      {"second value", with(kOk + kOk), "FormatError", {"not JSON"}},
      {"vertical tab before", with("\v" + kOk), "FormatError", {"byte 1: not JSON"}},
      {"bad UTF-8 name", with("{\"\xff\":1}"), "FormatError", {"UTF-8"}},
      {"tensor twice",
       with("{" + kOk.substr(1, kOk.size() - 2) + "," + kOk.substr(1)),
       "FormatError",
       {"header: byte 57", "\"x\" twice"}},
      {"field twice",
       x(R"("dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8])"),
       "FormatError",
       {"\"dtype\" twice"}},
      {"metadata twice",
       with(R"({"__metadata__":{},"__metadata__":{},)" + kOk.substr(1)),
       "FormatError",
       {"\"__metadata__\" twice"}},
      {"metadata is text", with(R"({"__metadata__":"pt"})"), "FormatError", {"found \"pt\""}},
      {"metadata is an array", with(R"({"__metadata__":[]})"), "FormatError", {"__metadata__: found"}},
      {"metadata of a number",
       with(R"({"__metadata__":{"format":1}})"),
       "FormatError",
       {"__metadata__.format: found 1 (integer), expected a string"}},
      {"metadata of null",
       with(R"({"__metadata__":{"a":null}})"),
       "FormatError",
       {"__metadata__.a: found null"}},
      {"too deep",
       x(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"more":)" + std::string(200, '[') +
         std::string(200, ']')),
       "ResourceLimitError",
       {"nested too deeply", "limit is 127"}},
      {"too many values",
       [] {
         std::string zeros = "0";
         for (int i = 0; i < 4'000'000; ++i) zeros += ",0";
         return x(R"("dtype":"F32","data_offsets":[0,8],"shape":[)" + zeros + "]");
       }(),
       "ResourceLimitError",
       {"too many values", "limit is 4000000"}},
      {"long name",
       with("{\"" + std::string((1 << 20) + 1, 'n') + "\":1}"),
       "ResourceLimitError",
       {"string of 1048577 bytes"}},
  });
}

TEST(MalformedHeader, EntriesWithMissingOrWrongFieldsAreRefusedByTensorAndField) {
  expect_files_refused({
      {"null", with(R"({"x":null})"), "FormatError", {"tensor \"x\": found null", "an object"}},
      {"number", with(R"({"x":1})"), "FormatError", {"tensor \"x\": found 1"}},
      {"array form", with(R"({"x":["F32",[2],[0,8]]})"), "FormatError", {"an array of 3"}},
      {"empty", x(""), "FormatError", {"tensor \"x\": dtype: found nothing"}},
      {"no dtype",
       x(R"("shape":[2],"data_offsets":[0,8])"),
       "FormatError",
       {"dtype: found nothing", "BF16"}},
      {"no shape",
       x(R"("dtype":"F32","data_offsets":[0,8])"),
       "FormatError",
       {"shape: found nothing", "an array of integers"}},
      {"no offsets",
       x(R"("dtype":"F32","shape":[2])"),
       "FormatError",
       {"data_offsets: found nothing", "[begin, end]"}},
      {"field in capitals",
       x(R"("DType":"F32","shape":[2],"data_offsets":[0,8])"),
       "FormatError",
       {"dtype: found nothing"}},
      {"dtype null", dtype("null"), "FormatError", {"tensor \"x\": dtype: found null"}},
      {"dtype number", dtype("32"), "FormatError", {"dtype: found 32 (integer)"}},
      {"dtype array", dtype("[\"F32\"]"), "FormatError", {"dtype: found an array of 1"}},
      {"dtype object", dtype(R"({"F32":null})"), "FormatError", {"dtype: found an object of 1"}},
      {"dtype empty", dtype("\"\""), "FormatError", {"dtype: found \"\" (string)"}},
      {"dtype lower case", dtype("\"f32\""), "FormatError", {"dtype: found \"f32\""}},
      {"dtype unknown", dtype("\"F128\""), "FormatError", {"dtype: found \"F128\""}},
      {"dtype of numpy", dtype("\"float32\""), "FormatError", {"dtype: found \"float32\""}},
      {"dtype with a blank", dtype("\"F32 \""), "FormatError", {"dtype: found \"F32 \""}},
      {"dtype cut short", dtype("\"F\""), "FormatError", {"dtype: found \"F\""}},
      {"dtype 'other'", dtype("\"other\""), "FormatError", {"dtype: found \"other\""}},
      {"dtype with escapes", dtype("\"\\u001b[0m\""), "FormatError", {R"(found "\u001b[0m")"}},
      {"dtype very long",
       dtype('"' + std::string(5000, 'F') + '"'),
       "FormatError",
       {"FFF...\" (string)"}},
      {"name with a line break",
       with(R"({"a\nb":1})"),
       "FormatError",
       {R"(tensor "a\nb": found 1)"}},
  });
}

TEST(MalformedHeader, ShapesThatAreNoShapeAreRefused) {
  expect_files_refused({
      {"null", shape("null"), "FormatError", {"tensor \"x\": shape: found null"}},
      {"number", shape("2"), "FormatError", {"shape: found 2 (integer)"}},
      {"string", shape("\"2\""), "FormatError", {"shape: found \"2\" (string)"}},
      {"object", shape(R"({"0":2})"), "FormatError", {"shape: found an object of 1"}},
      {"negative", shape("[-2]"), "FormatError", {"shape: found -2 (integer) inside"}},
      {"two negatives", shape("[-1,-2]"), "FormatError", {"shape: found -1"}},
      {"fraction", shape("[2.5]"), "FormatError", {"shape: found 2.5 (number) inside"}},
      {"float", shape("[2.0]"), "FormatError", {"shape: found 2.0 (number) inside"}},
      {"exponent", shape("[2e0]"), "FormatError", {"shape: found 2.0 (number) inside"}},
      {"text inside", shape("[\"2\"]"), "FormatError", {"shape: found \"2\" (string) inside"}},
      {"boolean inside", shape("[true,2]"), "FormatError", {"shape: found true (boolean) inside"}},
      {"null inside", shape("[null]"), "FormatError", {"shape: found null inside"}},
      {"array inside", shape("[[2]]"), "FormatError", {"shape: found an array of 1 inside"}},
      {"2^63", shape("[" + kTooLarge + "]"), "FormatError", {"the dimension " + kTooLarge}},
      {"2^64-1", shape("[" + kHuge + "]"), "FormatError", {"the dimension " + kHuge}},
      {"2^64", shape("[" + kBeyond + "]"), "FormatError", {"shape: found 1.84"}},
      {"2^64-1 and 0", shape("[0," + kHuge + "]"), "FormatError", {"the dimension " + kHuge}},
      {"elements overflow to 2",
       shape("[4294967297,8589934592,2147483648]"),
       "FormatError",
       {"shape: found more than 2^63-1 elements"}},
      {"elements overflow to 0",
       shape("[4294967296,4294967296]"),
       "FormatError",
       {"more than 2^63-1 elements"}},
      {"overflow behind 0",
       shape("[0,4611686018427387904,4]"),
       "FormatError",
       {"more than 2^63-1 elements"}},
      {"overflow before 0",
       shape("[4611686018427387904,4,0]"),
       "FormatError",
       {"more than 2^63-1 elements"}},
      {"bits overflow to 64",
       shape("[576460752303423490]"),  // times 32: 2^64 + 64
       "FormatError",
       {"shape: found more than 2^63-1 bits"}},
      {"half a byte",
       with("{" + entry("x", "F4", "[15]", "[0,8]") + "}"),
       "FormatError",
       {"tensor \"x\": shape: found 60 bits of F4, expected whole bytes"}},
      {"six bits",
       with("{" + entry("x", "F6_E2M3", "[3]", "[0,3]") + "}"),
       "FormatError",
       {"18 bits of F6_E2M3"}},
  });
}

TEST(MalformedHeader, OffsetsThatDoNotFitTheirTensorOrFileAreRefused) {
  expect_files_refused({
      {"null", offsets("null"), "FormatError", {"tensor \"x\": data_offsets: found null"}},
      {"number", offsets("8"), "FormatError", {"data_offsets: found 8 (integer)"}},
      {"none", offsets("[]"), "FormatError", {"data_offsets: found an array of 0"}},
      {"one", offsets("[8]"), "FormatError", {"data_offsets: found an array of 1"}},
      {"three", offsets("[0,8,8]"), "FormatError", {"data_offsets: found an array of 3"}},
      {"object", offsets(R"({"begin":0,"end":8})"), "FormatError", {"found an object of 2"}},
      {"text inside", offsets("[\"0\",8]"), "FormatError", {"found \"0\" (string) inside"}},
      {"float", offsets("[0.0,8.0]"), "FormatError", {"data_offsets: found 0.0 (number) inside"}},
      {"negative begin", offsets("[-8,0]"), "FormatError", {"data_offsets: found -8"}},
      {"negative end", offsets("[0,-8]"), "FormatError", {"data_offsets: found -8"}},
      {"reversed", offsets("[8,0]"), "FormatError", {"data_offsets: found [8, 0]", "<= end"}},
      {"too few bytes", offsets("[0,4]"), "FormatError", {"found 4 bytes, expected 8 bytes for"}},
      {"too many bytes", offsets("[0,12]"), "FormatError", {"found 12 bytes, expected 8 bytes"}},
      {"empty tensor with bytes",
       with("{" + entry("x", "F32", "[0]", "[0,8]") + "}"),
       "FormatError",
       {"tensor \"x\": data_offsets: found 8 bytes, expected 0 bytes"}},
      {"scalar without bytes",
       with("{" + entry("x", "F32", "[]", "[0,0]") + "}"),
       "FormatError",
       {"found 0 bytes, expected 4 bytes"}},
      {"one element too few",
       with("{" + entry("x", "F16", "[3]", "[0,8]") + "}"),
       "FormatError",
       {"found 8 bytes, expected 6 bytes"}},
      {"behind the end", offsets("[8,16]"), "FormatError", {"end at 16", "the 8 bytes of data"}},
      {"across the end", offsets("[4,12]"), "FormatError", {"end at 12", "download complete?"}},
      {"end at 2^64-1",
       offsets("[18446744073709551607,18446744073709551615]"),
       "FormatError",
       {"an end at " + kHuge}},
      {"end at 2^64", offsets("[0," + kBeyond + "]"), "FormatError", {"found 1.84"}},
      {"begins late", with("{" + entry("x", "F32", "[1]", "[4,8]") + "}"), "FormatError",
       {"tensor \"x\": found a gap after the header (data byte 4), expected data byte 0"}},
      {"bytes behind",
       with("{" + entry("x", "F32", "[1]", "[0,4]") + "}"),
       "FormatError",
       {"found 4 bytes behind the last tensor, expected none"}},
      {"data without tensors", with("{}"), "FormatError", {"found 8 bytes behind the last"}},
      {"no data", file_image(kOk, ""), "FormatError", {"tensor \"x\"", "the 0 bytes of data"}},
      {"data cut", file_image(kOk, "1234567"), "FormatError", {"the 7 bytes of data"}},
      {"hole", two("[2] [0,2]", "[2] [6,8]"), "FormatError",
       {"tensor \"b\": found a gap after tensor \"a\" (data byte 6), expected data byte 2"}},
      {"overlap", two("[5] [0,5]", "[5] [3,8]"), "FormatError",
       {"tensor \"b\": found a start inside tensor \"a\" (data byte 3), expected data byte 5"}},
      {"same bytes", two("[8] [0,8]", "[8] [0,8]"), "FormatError", {"start inside tensor"}},
      {"one inside the other", two("[8] [0,8]", "[2] [4,6]"), "FormatError", {"start inside"}},
      {"empty tensor inside another", two("[8] [0,8]", "[0] [4,4]"), "FormatError",
       {"tensor \"b\": found a start inside tensor \"a\""}},
      {"empty tensor behind the end", two("[8] [0,8]", "[0] [9,9]"), "FormatError", {"end at 9"}},
  });
}

}  // namespace
}  // namespace bezel::checkpoint
