#include "bezel/hooks/store/hash.h"

#include <openssl/sha.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <new>
#include <vector>

#include "bezel/hooks/store/io.h"

namespace bezel::store {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{1} << 20;  // stays in the processor's cache

// RFC 3720, appendix B.4: the polynomial 0x1EDC6F41, reflected.
constexpr std::array<std::uint32_t, 256> make_crc_table() {
  constexpr std::uint32_t kReflected = 0x82F63B78;
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < table.size(); ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kReflected : 0);
    table[i] = crc;
  }
  return table;
}
constexpr auto kCrcTable = make_crc_table();

XXH3_state_t* state_of(void* state) { return static_cast<XXH3_state_t*>(state); }

}  // namespace

std::string to_hex(std::span<const std::byte> bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  constexpr auto kLow = std::byte{0xF};
  std::string text;
  for (const std::byte byte : bytes) {
    text += kDigits[std::to_integer<std::size_t>(byte >> 4)];
    text += kDigits[std::to_integer<std::size_t>(byte & kLow)];
  }
  return text;
}

std::string sha256_hex(std::string_view bytes) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest.data());
  return to_hex(std::as_bytes(std::span(digest)));
}

std::string crc32c_hex(std::string_view bytes) {
  std::uint32_t crc = ~std::uint32_t{0};
  for (const char byte : bytes)
    crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<unsigned char>(byte)) & 0xFF];
  crc = ~crc;
  std::array<unsigned char, 4> digest{};
  for (std::size_t i = 0; i < digest.size(); ++i)
    digest[i] = static_cast<unsigned char>(crc >> (8 * (3 - i)));
  return to_hex(std::as_bytes(std::span(digest)));
}

void Xxh3::Free::operator()(void* state) const { XXH3_freeState(state_of(state)); }

Xxh3::Xxh3() : state_(XXH3_createState()) {
  if (!state_) throw std::bad_alloc();
  reset();
}

void Xxh3::update(std::span<const std::byte> bytes) {
  XXH3_64bits_update(state_of(state_.get()), bytes.data(), bytes.size());
}

std::uint64_t Xxh3::digest64() const { return XXH3_64bits_digest(state_of(state_.get())); }

void Xxh3::reset() { XXH3_64bits_reset(state_of(state_.get())); }

std::array<std::byte, 16> file_hash(const File& file, std::uint64_t n_bytes) {
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(),
                                                                       XXH3_freeState);
  if (!state) throw std::bad_alloc();
  XXH3_128bits_reset(state.get());
  std::vector<std::byte> chunk(std::min<std::uint64_t>(n_bytes, kChunkBytes));
  for (std::uint64_t offset = 0; offset < n_bytes;) {
    const auto part =
        std::span(chunk).first(std::min<std::uint64_t>(chunk.size(), n_bytes - offset));
    read_all(file, offset, part);
    XXH3_128bits_update(state.get(), part.data(), part.size());
    offset += part.size();
  }
  XXH128_canonical_t canonical{};
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state.get()));
  return std::bit_cast<std::array<std::byte, 16>>(canonical);
}

std::string file_hash_hex(const File& file, std::uint64_t n_bytes) {
  return to_hex(file_hash(file, n_bytes));
}

}  // namespace bezel::store
