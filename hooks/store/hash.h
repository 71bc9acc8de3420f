// The checksums of a store: SHA-256 (ids and chains), CRC-32C (records), XXH3 (blocks and files).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace bezel::store {

/// SHA-256 as 64 hexadecimal digits.
std::string sha256_hex(std::string_view bytes);
/// CRC-32C (Castagnoli) as 8 hexadecimal digits.
std::string crc32c_hex(std::string_view bytes);

/// XXH3 of bytes that come in pieces.
class Xxh3 {
 public:
  Xxh3();
  void update(std::span<const std::byte> bytes);
  /// The 64-bit hash of what came since the start or the last reset().
  std::uint64_t digest64() const;
  void reset();

 private:
  struct Free {
    void operator()(void* state) const;
  };
  std::unique_ptr<void, Free> state_;
};

std::string to_hex(std::span<const std::byte> bytes);

class File;
/// XXH3-128 of the file's first `n_bytes`, in canonical order; or as 32 hexadecimal digits.
std::array<std::byte, 16> file_hash(const File& file, std::uint64_t n_bytes);
std::string file_hash_hex(const File& file, std::uint64_t n_bytes);

}  // namespace bezel::store
