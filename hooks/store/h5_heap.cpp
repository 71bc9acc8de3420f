#include "bezel/hooks/store/h5_heap.h"

#include <algorithm>
#include <string_view>

#include "bezel/hooks/error.h"

namespace bezel::store::h5 {
namespace {

using Bytes = std::span<const std::byte>;

constexpr std::string_view kMagic = "GCOL";
constexpr std::uint64_t kHeaderBytes = 16, kSizeAt = 8, kUnit = 8;  // of a collection and an object

std::uint64_t number_at(Bytes bytes, std::uint64_t place, std::uint64_t n_bytes) {
  std::uint64_t number = 0;
  for (std::uint64_t i = n_bytes; i > 0; --i)
    number = number << 8 | std::to_integer<std::uint64_t>(bytes[place + i - 1]);
  return number;
}

[[noreturn]] void refuse(const Storage& storage) {
  throw StoreError(storage.name + ": a heap of texts in it is damaged");
}

struct Collection {
  std::vector<std::byte> bytes;
  std::map<std::uint64_t, Bytes> objects;
};

Collection read_collection(Storage& storage, std::uint64_t place) {
  Collection found{.bytes = std::vector<std::byte>(kHeaderBytes), .objects = {}};
  if (place > storage.size() || storage.size() - place < kHeaderBytes) refuse(storage);
  storage.read(place, found.bytes);
  const std::uint64_t n_bytes = number_at(found.bytes, kSizeAt, sizeof n_bytes);
  if (n_bytes < kHeaderBytes || n_bytes > storage.size() - place) refuse(storage);
  found.bytes.resize(n_bytes);
  storage.read(place, found.bytes);
  found.objects = objects_in(storage, found.bytes);
  return found;
}

}  // namespace

bool is_collection(Bytes bytes) {
  return bytes.size() >= kHeaderBytes &&
         std::ranges::equal(bytes.first(kMagic.size()), std::as_bytes(std::span(kMagic)));
}

std::map<std::uint64_t, Bytes> objects_in(const Storage& storage, Bytes bytes) {
  if (!is_collection(bytes)) refuse(storage);
  std::map<std::uint64_t, Bytes> objects;  // HDF5 gives numbers that grow; some may have gone
  const std::uint64_t end = number_at(bytes, kSizeAt, sizeof end);
  if (end > bytes.size()) return objects;  // HDF5 has looked for the size, and reads it again
  for (std::uint64_t at = kHeaderBytes; at < end && end - at >= kHeaderBytes;) {
    const std::uint64_t index = number_at(bytes, at, 2), left = end - at - kHeaderBytes;
    const std::uint64_t n_bytes = number_at(bytes, at + kSizeAt, sizeof n_bytes);
    if (index == 0 && n_bytes == end - at) break;  // free space
    const std::uint64_t last = objects.empty() ? 0 : objects.rbegin()->first;
    if (index <= last || n_bytes > left) refuse(storage);
    objects[index] = bytes.subspan(at + kHeaderBytes, n_bytes);
    at += kHeaderBytes + (n_bytes + kUnit - 1) / kUnit * kUnit;
  }
  return objects;
}

std::vector<std::string> texts_at(Storage& storage, std::uint64_t place, std::uint64_t n) {
  constexpr std::uint64_t kDescriptorBytes = 16, kAddressAt = 4, kIndexAt = 12;
  if (n > storage.size() / kDescriptorBytes || place > storage.size() - n * kDescriptorBytes)
    refuse(storage);
  std::vector<std::byte> descriptors(n * kDescriptorBytes);
  storage.read(place, descriptors);
  std::map<std::uint64_t, Collection> collections;
  std::vector<std::string> texts(n);
  std::uint64_t n_left = storage.size();
  for (std::uint64_t i = 0; i < n; ++i) {
    const auto descriptor = Bytes(descriptors).subspan(i * kDescriptorBytes, kDescriptorBytes);
    const std::uint64_t length = number_at(descriptor, 0, 4),
                        address = number_at(descriptor, kAddressAt, 8),
                        index = number_at(descriptor, kIndexAt, 4);
    if (length == 0) continue;
    if (!collections.contains(address)) collections[address] = read_collection(storage, address);
    const auto& objects = collections[address].objects;
    const auto found = objects.find(index);
    if (found == objects.end() || found->second.size() < length || length > n_left) refuse(storage);
    n_left -= length;
    texts[i].assign(reinterpret_cast<const char*>(found->second.data()), length);
  }
  return texts;
}

}  // namespace bezel::store::h5
