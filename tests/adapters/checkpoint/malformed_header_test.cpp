// Safetensors files that must be refused: each row is a file, and what the refusal must say.
#include <gtest/gtest.h>

#include <set>

#include "bezel/adapters/checkpoint/safetensors.h"
#include "support.h"

namespace bezel::checkpoint {
namespace {

const std::string kData(8, 'd');
const std::string kOk = R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
const std::string kHuge = "18446744073709551615";     // 2^64-1
const std::string kBeyond = "18446744073709551616";   // 2^64
const std::string kTooLarge = "9223372036854775808";  // 2^63

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
// One tensor "x" of these.
std::string typed(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return with("{" + entry("x", dtype, shape, offsets) + "}");
}
// Tensors "a" and "b" of U8: shape and offsets of each.
std::string two(const std::string& a_shape, const std::string& a_offsets,
                const std::string& b_shape, const std::string& b_offsets) {
  return with("{" + entry("a", "U8", a_shape, a_offsets) + "," +
              entry("b", "U8", b_shape, b_offsets) + "}");
}
// A prefix that promises `n` bytes of header, then `rest`.
std::string claiming(std::uint64_t n, const std::string& rest) {
  return std::string(reinterpret_cast<const char*>(&n), sizeof n) + rest;
}
std::string four_million_zeros() {
  std::string zeros = "0";
  for (int i = 0; i < 4'000'000; ++i) zeros += ",0";
  return zeros;
}

const std::string kJson = "malformed text";
const std::string kLimit = "ResourceLimitError";

// The prefix against the file, and what is no safetensors file at all.
const std::vector<Case> kPrefixes = {
    {"empty file", "", "", "0 bytes", "a safetensors file; is the download complete?"},
    {"7 bytes", "1234567", "", "7 bytes", "a safetensors file; is the download complete?"},
    {"header of 0 bytes", claiming(0, ""), "header: byte 1", kJson, "JSON"},
    {"header of 0 bytes, data", claiming(0, kData), "header: byte 1", kJson, "JSON"},
    {"prefix only", claiming(1, ""), "header", "1 bytes", "fewer in a file of 8 bytes; is the"},
    {"one byte short", claiming(3, "{}"), "header", "3 bytes", "fewer in a file of 10 bytes"},
    {"beyond the end", claiming(99'999'999, "{}"), "header", "99999999", "fewer in a file of 10"},
    {"above the limit", claiming(100'000'001, "{}"), "header", "100000001", "at most 1000", kLimit},
    {"2^32", claiming(1ULL << 32, "{}"), "header", "4294967296", "at most 100000000", kLimit},
    {"2^63", claiming(1ULL << 63, "{}"), "header", kTooLarge, "at most 100000000", kLimit},
    {"2^64-1", claiming(~0ULL, "{}"), "header", kHuge, "at most 100000000", kLimit},
    {"2^64-8: wraps to 0", claiming(~7ULL, "{}"), "header", "18446744073709551608", "at", kLimit},
    {"2^64-6: wraps to 2", claiming(~5ULL, "{}"), "header", "18446744073709551610", "at", kLimit},
    {"big-endian length", std::string("\0\0\0\0\0\0\0\2{}", 10), "header", "1441", "at", kLimit},
    {"Git LFS pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "",
     "a Git LFS pointer", "a safetensors file; fetch the file itself with `git lfs pull`"},
    {"PyTorch's zip", "PK\x03\x04\x14\x08\x08\x08 archive/data.pkl", "", "a zip archive",
     "a safetensors file; is it a PyTorch checkpoint? convert it"},
    {"GGUF", "GGUF\x03 and more", "", "a GGUF file", "a safetensors file; bezel reads"},
    {"web page", "<!DOCTYPE html><html>", "", "a web page", "a safetensors file; the download"},
    {"bare JSON", kOk, "", "JSON text", "a safetensors file; is it an index"},
};

// The header as JSON, and as an object of tensors.
const std::vector<Case> kHeaders = {
    {"array", with("[]"), "header", "an array of 0", "an object of tensors"},
    {"string", with("\"x\""), "header", "\"x\" (string)", "an object of tensors"},
    {"number", with("7"), "header", "7 (integer)", "an object of tensors"},
    {"null", with("null"), "header", "null", "an object of tensors"},
    {"wrong bracket", with("{]"), "header: byte 2", kJson, "JSON"},
    {"cut", with(kOk.substr(0, 40)), "header: byte 41", kJson, "JSON"},
    {"text behind", with(kOk + "x"), "header: byte 55", kJson, "JSON"},
    {"NUL behind", with(kOk + std::string(1, '\0')), "header: byte 55", "a NUL byte", "JSON"},
    {"NUL, then more", with(kOk + std::string("\0{", 2)), "header: byte 55", "a NUL", "JSON"},
    {"NUL in a name", with(std::string("{\"\0\":1}", 7)), "header: byte 3", "a NUL", "JSON"},
    {"second value", with(kOk + kOk), "header: byte 55", kJson, "JSON"},
    {"vertical tab before", with("\v" + kOk), "header: byte 1", kJson, "JSON"},
    {"byte order mark", with("\xEF\xBB\xBF" + kOk), "header: byte 1", "a byte order mark", "JSON"},
    {"bad UTF-8 name", with("{\"\xff\":1}"), "header: byte 3", kJson, "JSON"},
    {"NaN beside", x("\"a\":NaN"), "header: byte 11", kJson, "JSON"},
    {"tensor twice", with("{" + kOk.substr(1, kOk.size() - 2) + "," + kOk.substr(1)),
     "header: key \"x\"", "it twice in one object", "it once"},
    {"field twice", x(R"("dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8])"),
     "header: key \"dtype\"", "it twice in one object", "it once"},
    {"metadata twice", with(R"({"__metadata__":{},"__metadata__":{},)" + kOk.substr(1)),
     "header: key \"__metadata__\"", "it twice in one object", "it once"},
    {"metadata of text", with(R"({"__metadata__":"pt"})"), "__metadata__", "\"pt\"", "an object"},
    {"metadata of 1", with(R"({"__metadata__":1})"), "__metadata__", "1 (integer)", "an object"},
    {"metadata array", with(R"({"__metadata__":[]})"), "__metadata__", "an array", "an object of"},
    {"metadata entry of 1", with(R"({"__metadata__":{"format":1}})"), "__metadata__.format",
     "1 (integer)", "a string"},
    {"metadata entry of null", with(R"({"__metadata__":{"a":null}})"), "__metadata__.a", "null",
     "a string"},
    {"metadata entry deep", with(R"({"__metadata__":{"a":{}}})"), "__metadata__.a",
     "an object of 0", "a string"},
    {"too deep", x("\"a\":" + std::string(200, '[') + std::string(200, ']')), "header",
     "too many nested arrays and objects", "at most 127", kLimit},
    {"too many values", shape("[" + four_million_zeros() + "]"), "header", "too many values",
     "at most 4000000", kLimit},
};

// One entry: what it is, and its type.
const std::string kX = "tensor \"x\"";
const std::string kTypes = "a safetensors type such as \"BF16\" or \"F32\"";
const std::vector<Case> kEntries = {
    {"null", with(R"({"x":null})"), kX, "null", "an object"},
    {"number", with(R"({"x":1})"), kX, "1 (integer)", "an object"},
    {"text", with(R"({"x":"F32"})"), kX, "\"F32\" (string)", "an object"},
    {"array", with(R"({"x":["F32",[2],[0,8]]})"), kX, "an array of 3", "an object"},
    {"nothing inside", with(R"({"x":{}})"), kX + ": dtype", "nothing", kTypes},
    {"no dtype", x(R"("shape":[2],"data_offsets":[0,8])"), kX + ": dtype", "nothing", kTypes},
    {"no shape", x(R"("dtype":"F32","data_offsets":[0,8])"), kX + ": shape", "nothing",
     "an array of integers in 0..2^63-1"},
    {"no offsets", x(R"("dtype":"F32","shape":[2])"), kX + ": data_offsets", "nothing",
     "[begin, end] with 0 <= begin <= end"},
    {"field in capitals", x(R"("DTYPE":"F32","shape":[2],"data_offsets":[0,8])"), kX + ": dtype",
     "nothing", kTypes},
    {"dtype null", dtype("null"), kX + ": dtype", "null", kTypes},
    {"dtype number", dtype("32"), kX + ": dtype", "32 (integer)", kTypes},
    {"dtype array", dtype("[\"F32\"]"), kX + ": dtype", "an array of 1", kTypes},
    {"dtype empty", dtype("\"\""), kX + ": dtype", "\"\" (string)", kTypes},
    {"dtype in small letters", dtype("\"f32\""), kX + ": dtype", "\"f32\" (string)", kTypes},
    {"dtype unknown", dtype("\"F128\""), kX + ": dtype", "\"F128\" (string)", kTypes},
    {"dtype of numpy", dtype("\"float32\""), kX + ": dtype", "\"float32\" (string)", kTypes},
    {"dtype with a blank", dtype("\"F32 \""), kX + ": dtype", "\"F32 \" (string)", kTypes},
    {"dtype cut short", dtype("\"F\""), kX + ": dtype", "\"F\" (string)", kTypes},
    {"dtype with escapes", dtype("\"\\u001b[0m\""), kX + ": dtype", R"("\u001b[0m")", kTypes},
    {"dtype very long", dtype('"' + std::string(5000, 'F') + '"'), kX + ": dtype",
     '"' + std::string(80, 'F') + "...\" (string)", kTypes},
    {"name with a line break", with(R"({"a\nb":1})"), R"(tensor "a\nb")", "1", "an object"},
    {"name without end", with("{\"" + std::string(2'000'000, 'n') + "\":1}"),
     "tensor \"" + std::string(80, 'n') + "...\"", "1 (integer)", "an object"},
};

const std::string kShape = kX + ": shape";
const std::string kSizes = "an array of integers in 0..2^63-1";
const std::vector<Case> kShapes = {
    {"null", shape("null"), kShape, "null", kSizes},
    {"number", shape("2"), kShape, "2 (integer)", kSizes},
    {"text", shape("\"2\""), kShape, "\"2\" (string)", kSizes},
    {"object", shape(R"({"0":2})"), kShape, "an object of 1", kSizes},
    {"negative", shape("[-2]"), kShape, "-2 (integer) inside", kSizes},
    {"two negatives", shape("[-1,-2]"), kShape, "-1 (integer) inside", kSizes},
    {"minus zero", shape("[-0]"), kShape, "0 (integer) inside", kSizes},
    {"fraction", shape("[2.5]"), kShape, "2.5 (number) inside", kSizes},
    {"float", shape("[2.0]"), kShape, "2.0 (number) inside", kSizes},
    {"exponent", shape("[2e0]"), kShape, "2.0 (number) inside", kSizes},
    {"text inside", shape("[\"2\"]"), kShape, "\"2\" (string) inside", kSizes},
    {"true inside", shape("[true,2]"), kShape, "true (boolean) inside", kSizes},
    {"null inside", shape("[null]"), kShape, "null inside", kSizes},
    {"array inside", shape("[[2]]"), kShape, "an array of 1 inside", kSizes},
    {"2^63", shape("[" + kTooLarge + "]"), kShape, "the dimension " + kTooLarge, kSizes},
    {"2^64-1", shape("[" + kHuge + "]"), kShape, "the dimension " + kHuge, kSizes},
    {"2^64", shape("[" + kBeyond + "]"), kShape, "1.84", kSizes},
    {"2^64-1 and 0", shape("[0," + kHuge + "]"), kShape, "the dimension " + kHuge, kSizes},
    {"elements overflow to 2", shape("[4294967297,8589934592,2147483648]"), kShape,
     "more than 2^63-1 elements", "fewer"},
    {"elements overflow to 0", shape("[4294967296,4294967296]"), kShape,
     "more than 2^63-1 elements", "fewer"},
    {"overflow behind 0", typed("F32", "[0,4611686018427387904,4]", "[0,0]"), kShape,
     "more than 2^63-1 elements", "fewer"},
    {"overflow before 0", typed("F32", "[4611686018427387904,4,0]", "[0,0]"), kShape,
     "more than 2^63-1 elements", "fewer"},
    {"bits overflow to 64", shape("[576460752303423490]"), kShape,  // times 32: 2^64 + 64
     "more than 2^63-1 bits", "fewer"},
    {"half a byte", typed("F4", "[15]", "[0,8]"), kShape, "60 bits of F4", "whole bytes"},
    {"six bits", typed("F6_E2M3", "[3]", "[0,3]"), kShape, "18 bits of F6_E2M3", "whole bytes"},
};

const std::string kOffsets = kX + ": data_offsets";
const std::string kPair = "[begin, end] with 0 <= begin <= end";
const std::vector<Case> kOffsetCases = {
    {"null", offsets("null"), kOffsets, "null", kPair},
    {"number", offsets("8"), kOffsets, "8 (integer)", kPair},
    {"none", offsets("[]"), kOffsets, "an array of 0", kPair},
    {"one", offsets("[8]"), kOffsets, "an array of 1", kPair},
    {"three", offsets("[0,8,8]"), kOffsets, "an array of 3", kPair},
    {"object", offsets(R"({"begin":0,"end":8})"), kOffsets, "an object of 2", kPair},
    {"text inside", offsets("[\"0\",8]"), kOffsets, "\"0\" (string) inside", kPair},
    {"float", offsets("[0.0,8.0]"), kOffsets, "0.0 (number) inside", kPair},
    {"negative begin", offsets("[-8,0]"), kOffsets, "-8 (integer) inside", kPair},
    {"negative end", offsets("[0,-8]"), kOffsets, "-8 (integer) inside", kPair},
    {"reversed", offsets("[8,0]"), kOffsets, "[8, 0]", kPair},
    {"end at 2^64", offsets("[0," + kBeyond + "]"), kOffsets, "1.84", kPair},
    {"too few bytes", offsets("[0,4]"), kOffsets, "4 bytes", "8 bytes for its shape and dtype"},
    {"too many bytes", offsets("[0,12]"), kOffsets, "12 bytes", "8 bytes for its shape"},
    {"bytes of an empty tensor", typed("F32", "[0]", "[0,8]"), kOffsets, "8 bytes", "0 bytes"},
    {"scalar without bytes", typed("F32", "[]", "[0,0]"), kOffsets, "0 bytes", "4 bytes"},
    {"too few elements", typed("F16", "[3]", "[0,8]"), kOffsets, "8 bytes", "6 bytes"},
    {"wider type", typed("F64", "[2]", "[0,8]"), kOffsets, "8 bytes", "16 bytes"},
    {"behind the end", offsets("[8,16]"), kOffsets, "an end at 16",
     "one within the 8 bytes of data; is the download complete?"},
    {"across the end", offsets("[4,12]"), kOffsets, "an end at 12", "one within the 8 bytes"},
    {"end at 2^64-1", offsets("[18446744073709551607," + kHuge + "]"), kOffsets,
     "an end at " + kHuge, "one within the 8 bytes of data"},
    {"no data", file_image(kOk, ""), kOffsets, "an end at 8", "one within the 0 bytes of data"},
    {"data cut", file_image(kOk, "1234567"), kOffsets, "an end at 8", "one within the 7 bytes"},
    {"begins late", typed("F32", "[1]", "[4,8]"), kOffsets, "4, a gap after the header", "0"},
    {"bytes behind", typed("F32", "[1]", "[0,4]"), "data", "4 bytes behind the last tensor",
     "none"},
    {"data without tensors", with("{}"), "data", "8 bytes behind the last tensor", "none"},
};

const std::string kBOffsets = "tensor \"b\": data_offsets";
const std::vector<Case> kPairs = {
    {"hole", two("[2]", "[0,2]", "[2]", "[6,8]"), kBOffsets, "6, a gap after tensor \"a\"", "2"},
    {"hole, not sorted", two("[2]", "[6,8]", "[2]", "[0,2]"), "tensor \"a\": data_offsets",
     "6, a gap after tensor \"b\"", "2"},
    {"overlap", two("[5]", "[0,5]", "[5]", "[3,8]"), kBOffsets, "3, inside tensor \"a\"", "5"},
    {"same bytes", two("[8]", "[0,8]", "[8]", "[0,8]"), kBOffsets, "0, inside tensor \"a\"", "8"},
    {"one in the other", two("[8]", "[0,8]", "[2]", "[4,6]"), kBOffsets, "4, inside tensor", "8"},
    {"nothing in another", two("[8]", "[0,8]", "[0]", "[4,4]"), kBOffsets, "4, inside tensor", "8"},
    {"nothing behind the end", two("[8]", "[0,8]", "[0]", "[9,9]"), kBOffsets, "an end at 9",
     "one within the 8 bytes of data"},
};

TEST(MalformedHeader, EachOfMoreThanAHundredFilesIsRefusedForItsOwnReason) {
  const TempFolder folder;
  const auto path = folder / "model.safetensors";
  std::set<std::string> inputs;
  for (const auto* cases : {&kPrefixes, &kHeaders, &kEntries, &kShapes, &kOffsetCases, &kPairs}) {
    expect_refusals(*cases, path.native(), [&](const std::string& image) {
      folder.write("model.safetensors", image);
      read_header(path);
    });
    for (const Case& row : *cases) EXPECT_TRUE(inputs.insert(row.input).second) << row.name;
  }
  EXPECT_GE(inputs.size(), 100u);
}

}  // namespace
}  // namespace bezel::checkpoint
