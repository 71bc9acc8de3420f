#include "bezel/hooks/store/seal.h"

#include <algorithm>
#include <array>
#include <span>
#include <string_view>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/hash.h"

namespace bezel::store {
namespace {

constexpr std::string_view kMagic = "bezel", kHdf5 = "\x89HDF\r\n\x1a\n";
using Seal = std::array<std::byte, kSealBytes>;

Seal seal_of(const File& file, std::uint64_t n_bytes) {
  Seal seal{};
  std::ranges::copy(std::as_bytes(std::span(kMagic)), seal.begin());
  std::ranges::copy(file_hash(file, n_bytes), seal.begin() + kMagic.size());
  return seal;
}

std::string hash_in(const Seal& seal) { return to_hex(std::span(seal).subspan(kMagic.size())); }

}  // namespace

void add_seal(File& file, std::uint64_t n_bytes) {
  write_all(file, n_bytes, seal_of(file, n_bytes));
}

std::uint64_t check_seal(const File& file, const SealedKind& kind) {
  const std::string name = file.path().string();
  std::array<std::byte, kHdf5.size()> signature{};
  const std::uint64_t n_bytes = file.size();
  if (file.pread(0, signature) != signature.size() ||
      !std::ranges::equal(signature, std::as_bytes(std::span(kHdf5))))
    throw StoreError(name + " is no HDF5 file; wanted " + kind.wanted);
  Seal stored{};
  if (n_bytes >= signature.size() + stored.size()) read_all(file, n_bytes - kSealBytes, stored);
  if (!std::ranges::equal(std::span(stored).first(kMagic.size()), std::as_bytes(std::span(kMagic))))
    throw StoreError(name + " does not end with bezel's trailer: it was cut short, or another " +
                     "program wrote it. " + kind.remedy);
  const Seal found = seal_of(file, n_bytes - kSealBytes);
  if (found != stored)
    throw StoreError(name + " is damaged: the XXH3-128 of its bytes is " + hash_in(found) +
                     ", its trailer says " + hash_in(stored) + ". " + kind.remedy +
                     ", or copy it again");
  return n_bytes - kSealBytes;
}

}  // namespace bezel::store
