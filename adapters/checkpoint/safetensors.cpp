#include "bezel/adapters/checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "bezel/adapters/checkpoint/json.h"
#include "bezel/adapters/checkpoint/model_file.h"
#include "bezel/adapters/checkpoint/text.h"
#include "bezel/hooks/error.h"

namespace bezel::checkpoint {
namespace {

using nlohmann::json;

struct DTypeRow {
  std::string_view name;
  DType dtype;
  std::int64_t bits;
};

// safetensors 0.8, src/tensor.rs, `enum Dtype`.
constexpr auto kDTypes = std::to_array<DTypeRow>({
    {"BOOL", DType::kBool, 8},     {"U8", DType::kU8, 8},
    {"I8", DType::kI8, 8},         {"I16", DType::kI16, 16},
    {"U16", DType::kU16, 16},      {"I32", DType::kI32, 32},
    {"U32", DType::kU32, 32},      {"I64", DType::kI64, 64},
    {"U64", DType::kU64, 64},      {"F16", DType::kF16, 16},
    {"BF16", DType::kBF16, 16},    {"F32", DType::kF32, 32},
    {"F64", DType::kF64, 64},      {"C64", DType::kOther, 64},
    {"F8_E5M2", DType::kOther, 8}, {"F8_E4M3", DType::kOther, 8},
    {"F8_E8M0", DType::kOther, 8}, {"F8_E4M3FNUZ", DType::kOther, 8},
    {"F4", DType::kOther, 4},      {"F8_E5M2FNUZ", DType::kOther, 8},
    {"F6_E2M3", DType::kOther, 6}, {"F6_E3M2", DType::kOther, 6},
});

// About 400,000 tensors: a value each for the entry, its fields, dimensions and offsets. The depth
// is the reference parser's.
constexpr JsonLimits kHeaderLimits = {
    .max_bytes = kMaxHeaderBytes, .max_depth = 127, .max_values = 4'000'000};

constexpr std::size_t kMaxKeyBytes = 80;  // of a key, in a message

// What files that are not safetensors begin with.
struct Lookalike {
  std::string_view start, what, advice;
};
constexpr auto kLookalikes = std::to_array<Lookalike>({
    {"version ", "a Git LFS pointer", "fetch the file itself with `git lfs pull`"},
    {"PK\x03\x04", "a zip archive", "is it a PyTorch checkpoint? convert it to safetensors"},
    {"GGUF", "a GGUF file", "bezel reads the safetensors of the original model"},
    {"<", "a web page", "the download was answered with an error page"},
    {"{", "JSON text", "is it an index under the wrong name?"},
});

std::string bytes_text(std::uint64_t n) { return std::to_string(n) + " bytes"; }

// One entry of the header; its methods refuse with file, tensor and field.
class Entry {
 public:
  Entry(const std::filesystem::path& file, const std::string& name, const json& value)
      : file_(file), name_(name), value_(value) {
    if (!value.is_object()) refuse("", describe(value), "an object");
  }

  [[noreturn]] void refuse(const std::string& field, const std::string& found,
                           const std::string& expected) const {
    throw FormatError(show(file_) + ": tensor " + quote(name_) + ": " +
                      (field.empty() ? "" : field + ": ") + "found " + found + ", expected " +
                      expected);
  }

  const json& field(const char* key, const std::string& expected) const {
    const auto found = value_.find(key);
    if (found == value_.end()) refuse(key, "nothing", expected);
    return *found;
  }

  const DTypeRow& dtype() const {
    static constexpr char kExpected[] = "a safetensors type such as \"BF16\" or \"F32\"";
    const json& value = field("dtype", kExpected);
    if (!value.is_string()) refuse("dtype", describe(value), kExpected);
    const auto* row = std::ranges::find(
        kDTypes, std::string_view(value.get_ref<const std::string&>()), &DTypeRow::name);
    if (row == kDTypes.end()) refuse("dtype", describe(value), kExpected);
    return *row;
  }

  std::vector<std::int64_t> shape() const {
    static constexpr char kExpected[] = "an array of integers in 0..2^63-1";
    std::vector<std::int64_t> shape;
    for (const std::uint64_t dimension : unsigned_array("shape", kExpected)) {
      if (dimension > std::numeric_limits<std::int64_t>::max())
        refuse("shape", "the dimension " + std::to_string(dimension), kExpected);
      shape.push_back(static_cast<std::int64_t>(dimension));
    }
    return shape;
  }

  std::pair<std::uint64_t, std::uint64_t> data_offsets() const {
    static constexpr char kExpected[] = "[begin, end] with 0 <= begin <= end";
    const auto offsets = unsigned_array("data_offsets", kExpected);
    if (offsets.size() != 2)
      refuse("data_offsets", "an array of " + std::to_string(offsets.size()), kExpected);
    if (offsets[1] < offsets[0])
      refuse("data_offsets",
             "[" + std::to_string(offsets[0]) + ", " + std::to_string(offsets[1]) + "]", kExpected);
    return {offsets[0], offsets[1]};
  }

 private:
  std::vector<std::uint64_t> unsigned_array(const char* key, const std::string& expected) const {
    const json& value = field(key, expected);
    if (!value.is_array()) refuse(key, describe(value), expected);
    std::vector<std::uint64_t> numbers;
    for (const json& element : value) {
      if (!element.is_number_unsigned()) refuse(key, describe(element) + " inside", expected);
      numbers.push_back(element.get<std::uint64_t>());
    }
    return numbers;
  }

  const std::filesystem::path& file_;
  const std::string& name_;
  const json& value_;
};

// Product of shape times bits, in bytes. A dimension of 0 does not hide the overflow of the others:
// no tensor library can represent their strides.
std::uint64_t size_of(const std::vector<std::int64_t>& shape, const DTypeRow& dtype,
                      const Entry& entry) {
  constexpr std::int64_t kBitsPerByte = 8;
  std::int64_t n_elements = 1;
  for (const std::int64_t dimension : shape)
    if (__builtin_mul_overflow(n_elements, std::max<std::int64_t>(dimension, 1), &n_elements))
      entry.refuse("shape", "more than 2^63-1 elements", "fewer");
  if (std::ranges::count(shape, 0) > 0) return 0;
  std::int64_t n_bits = 0;
  if (__builtin_mul_overflow(n_elements, dtype.bits, &n_bits))
    entry.refuse("shape", "more than 2^63-1 bits", "fewer");
  if (n_bits % kBitsPerByte != 0)
    entry.refuse("shape", std::to_string(n_bits) + " bits of " + std::string(dtype.name),
                 "whole bytes");
  return static_cast<std::uint64_t>(n_bits / kBitsPerByte);
}

TensorInfo parse_tensor(const std::string& name, const json& value, std::uint64_t data_start,
                        std::uint64_t file_bytes, const std::filesystem::path& file) {
  const Entry entry(file, name, value);
  const DTypeRow& dtype = entry.dtype();
  const auto [begin, end] = entry.data_offsets();
  TensorInfo tensor = {.name = name,
                       .dtype = dtype.dtype,
                       .dtype_name = std::string(dtype.name),
                       .shape = entry.shape(),
                       .file = file,
                       .n_bytes = end - begin};
  const std::uint64_t wanted = size_of(tensor.shape, dtype, entry);
  if (tensor.n_bytes != wanted)
    entry.refuse("data_offsets", bytes_text(tensor.n_bytes),
                 bytes_text(wanted) + " for its shape and dtype");
  if (const std::uint64_t held = file_bytes - data_start; end > held)
    entry.refuse("data_offsets", "an end at " + std::to_string(end),
                 "one within the " + bytes_text(held) + " of data; is the download complete?");
  tensor.offset = data_start + begin;
  return tensor;
}

// Expects `tensors` ordered by offset.
void check_coverage(const std::vector<TensorInfo>& tensors, std::uint64_t data_start,
                    std::uint64_t file_bytes, const std::filesystem::path& file) {
  std::uint64_t end = data_start;
  const std::string* before = nullptr;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.offset != end)
      throw FormatError(show(file) + ": tensor " + quote(tensor.name) + ": data_offsets: found " +
                        std::to_string(tensor.offset - data_start) +
                        (tensor.offset < end ? ", inside " : ", a gap after ") +
                        (before ? "tensor " + quote(*before) : "the header") + ", expected " +
                        std::to_string(end - data_start));
    end += tensor.n_bytes;
    before = &tensor.name;
  }
  if (end != file_bytes)
    throw FormatError(show(file) + ": data: found " + bytes_text(file_bytes - end) +
                      " behind the last tensor, expected none");
}

void check_metadata(const json& value, const std::filesystem::path& file) {
  const auto refuse = [&](const std::string& field, const json& found, const char* expected) {
    throw FormatError(show(file) + ": __metadata__" + field + ": found " + describe(found) +
                      ", expected " + expected);
  };
  if (value.is_null()) return;
  if (!value.is_object()) refuse("", value, "an object of strings");
  for (const auto& [key, text] : value.items())
    if (!text.is_string()) refuse("." + printable(key, kMaxKeyBytes), text, "a string");
}

}  // namespace

std::uint64_t parse_prefix(std::span<const std::byte, kPrefixBytes> prefix,
                           std::uint64_t file_bytes, const std::filesystem::path& file) {
  static_assert(std::endian::native == std::endian::little, "safetensors is little-endian");
  const std::string_view start(reinterpret_cast<const char*>(prefix.data()), prefix.size());
  std::uint64_t n = 0;
  std::memcpy(&n, prefix.data(), prefix.size());
  if (n > kMaxHeaderBytes) {
    for (const Lookalike& lookalike : kLookalikes)
      if (start.starts_with(lookalike.start))
        throw FormatError(show(file) + ": found " + std::string(lookalike.what) +
                          ", expected a safetensors file; " + std::string(lookalike.advice));
    throw ResourceLimitError(show(file) + ": header: found " + bytes_text(n) +
                             ", expected at most " + std::to_string(kMaxHeaderBytes));
  }
  if (file_bytes < kPrefixBytes || n > file_bytes - kPrefixBytes)
    throw FormatError(show(file) + ": header: found " + bytes_text(n) +
                      ", expected fewer in a file of " + bytes_text(file_bytes) +
                      "; is the download complete?");
  return n;
}

std::vector<TensorInfo> parse_header(std::span<const std::byte> header, std::uint64_t file_bytes,
                                     const std::filesystem::path& file) {
  const std::uint64_t data_start = kPrefixBytes + header.size();
  if (data_start > file_bytes)
    throw ArgumentError("parse_header: the header is longer than the file");
  const std::string_view text(reinterpret_cast<const char*>(header.data()), header.size());
  const json root = parse_json(text, show(file) + ": header", kHeaderLimits);
  if (!root.is_object())
    throw FormatError(show(file) + ": header: found " + describe(root) +
                      ", expected an object of tensors");
  std::vector<TensorInfo> tensors;
  for (const auto& [name, value] : root.items()) {
    if (name == "__metadata__")
      check_metadata(value, file);
    else
      tensors.push_back(parse_tensor(name, value, data_start, file_bytes, file));
  }
  // By the end too: an empty tensor comes before the one that starts at the same byte.
  std::ranges::sort(tensors, {},
                    [](const TensorInfo& t) { return std::pair(t.offset, t.n_bytes); });
  check_coverage(tensors, data_start, file_bytes, file);
  return tensors;
}

std::vector<TensorInfo> read_header(const ModelFile& file) {
  if (file.size() < kPrefixBytes)
    throw FormatError(show(file.path()) + ": found " + bytes_text(file.size()) +
                      ", expected a safetensors file; is the download complete?");
  std::array<std::byte, kPrefixBytes> prefix;
  file.read_at(0, prefix);
  std::vector<std::byte> header(parse_prefix(prefix, file.size(), file.path()));
  file.read_at(kPrefixBytes, header);
  return parse_header(header, file.size(), file.path());
}

std::vector<TensorInfo> read_header(const std::filesystem::path& file) {
  return read_header(ModelFile::open(file));
}

}  // namespace bezel::checkpoint
