// The header of a safetensors file: which tensors it holds, and where.
//
// A file is 8 bytes (little-endian length of the header), the header (a JSON object, one entry per
// tensor), and the data, which the tensors cover exactly: no hole, no overlap, nothing behind.
// Accepts the files that the reference implementation accepts (safetensors 0.8, Rust), except where
// the format's text forbids them (duplicate names, entries written as arrays) and where no tensor
// could have the shape (dimensions, or their product without the zeros, above 2^63-1).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace bezel::checkpoint {

enum class DType : std::uint8_t {
  kBool,
  kU8,
  kI8,
  kI16,
  kU16,
  kI32,
  kU32,
  kI64,
  kU64,
  kF16,
  kBF16,
  kF32,
  kF64,
  kOther,  // a valid safetensors type that bezel does not read: F8_E4M3, F4, C64 …
};

struct TensorInfo {
  std::string name;
  DType dtype = DType::kOther;
  std::string dtype_name;           // as the file writes it: "BF16", "F8_E4M3"
  std::vector<std::int64_t> shape;  // empty for a scalar
  std::filesystem::path file;
  std::uint64_t offset = 0;   // bytes from the start of the file
  std::uint64_t n_bytes = 0;  // product of shape times the element's size
};

/// Bytes before the header: its length.
inline constexpr std::size_t kPrefixBytes = 8;
/// The reference implementation's limit on the header.
inline constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;

/// The length of the header from the file's first 8 bytes. FormatError if a file of `file_bytes`
/// cannot hold it, ResourceLimitError beyond kMaxHeaderBytes.
std::uint64_t parse_prefix(std::span<const std::byte, kPrefixBytes> prefix,
                           std::uint64_t file_bytes, const std::filesystem::path& file);

/// The tensors of a header, ordered by offset. Each lies inside the `file_bytes` of its file and
/// has the size of its shape and type; together they cover the data. `header` is what follows the
/// prefix.
std::vector<TensorInfo> parse_header(std::span<const std::byte> header, std::uint64_t file_bytes,
                                     const std::filesystem::path& file);

class ModelFile;
std::vector<TensorInfo> read_header(const ModelFile& file);
/// Opens `file` as ModelFile::open() does.
std::vector<TensorInfo> read_header(const std::filesystem::path& file);

}  // namespace bezel::checkpoint
