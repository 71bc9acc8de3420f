#include "bezel/verify/seal.h"

#include <xxhash.h>

#include <array>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "bezel/hooks/error.h"

namespace bezel::verify {
namespace {

constexpr std::string_view kMagic = "bezel";
constexpr std::size_t kTrailerBytes = kMagic.size() + sizeof(XXH128_canonical_t);
constexpr std::size_t kChunkBytes = std::size_t{1} << 22;

using Hasher = std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)>;

}  // namespace

void check_seal(const std::filesystem::path& path) {
  const auto refuse = [&](const std::string& why) {
    throw FormatError(path.string() + ": " + why);
  };
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) refuse("cannot be opened; is it there, and readable?");
  const auto n_bytes = static_cast<std::size_t>(file.tellg());
  if (n_bytes < kTrailerBytes) refuse("is too short for a sealed file");
  file.seekg(0);
  const Hasher hasher(XXH3_createState(), XXH3_freeState);
  XXH3_128bits_reset(hasher.get());
  std::vector<char> chunk(kChunkBytes);
  for (std::size_t left = n_bytes - kTrailerBytes; left > 0;) {
    const std::size_t n = std::min(left, chunk.size());
    if (!file.read(chunk.data(), static_cast<std::streamsize>(n))) refuse("cannot be read");
    XXH3_128bits_update(hasher.get(), chunk.data(), n);
    left -= n;
  }
  std::array<char, kTrailerBytes> trailer{};
  if (!file.read(trailer.data(), trailer.size())) refuse("cannot be read");
  if (std::string_view(trailer.data(), kMagic.size()) != kMagic) {
    refuse("has no seal at its end: it is no file of bezel's, or was cut");
  }
  XXH128_canonical_t written{};
  std::memcpy(&written, trailer.data() + kMagic.size(), sizeof(written));
  const auto found = XXH3_128bits_digest(hasher.get());
  if (!XXH128_isEqual(found, XXH128_hashFromCanonical(&written))) {
    refuse("is not what was sealed: bytes were changed; make it again with `bezel reference`");
  }
}

}  // namespace bezel::verify
