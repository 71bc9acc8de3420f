#include "bezel/hooks/store/shard_check.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <utility>

#include "bezel/hooks/store/hash.h"
#include "bezel/hooks/store/shard_file.h"

namespace bezel::store {
namespace {

constexpr std::size_t kMaxNamedBytes = 4;  // of the metadata, one by one
constexpr std::size_t kMaxLines = 100;

// A file with eight bytes that are others than on disk.
class PatchedFile final : public ReadOnlyFile {
 public:
  PatchedFile(const File& file, std::uint64_t offset, std::uint64_t value)
      : file_(file), offset_(offset), value_(value) {}
  const std::filesystem::path& path() const override { return file_.path(); }
  std::uint64_t size() const override { return file_.size(); }
  std::size_t pread(std::uint64_t offset, std::span<std::byte> into) const override {
    const std::size_t n = file_.pread(offset, into);
    const auto patch = std::as_bytes(std::span(&value_, 1));
    for (std::size_t i = 0; i < patch.size(); ++i) {
      const std::uint64_t at = offset_ + i;
      if (at >= offset && at < offset + n) into[at - offset] = patch[i];
    }
    return n;
  }

 private:
  const File& file_;
  std::uint64_t offset_, value_;
};

// Bytes of the metadata that are others than they should be.
std::vector<std::uint64_t> flipped_metadata(const File& file, const Skeleton& skeleton) {
  std::vector<std::uint64_t> flipped;
  for (const auto& [offset, bytes] : skeleton.extents) {
    std::vector<std::byte> found(bytes.size());
    read_all(file, offset, found);
    for (std::size_t i = 0; i < bytes.size(); ++i)
      if (found[i] != bytes[i]) flipped.push_back(offset + i);
  }
  return flipped;
}

// The id of the store that a file says it is of, where a file of this store has its own.
std::string id_in(const File& file, const Skeleton& skeleton, const std::string& id) {
  const auto wanted = std::as_bytes(std::span(id));
  for (const auto& [offset, bytes] : skeleton.extents) {
    const auto at = std::search(bytes.begin(), bytes.end(), wanted.begin(), wanted.end());
    if (at == bytes.end()) continue;
    std::string found(id.size(), ' ');
    read_all(file, offset + static_cast<std::uint64_t>(at - bytes.begin()),
             std::as_writable_bytes(std::span(found)));
    return found;
  }
  return id;
}

// What the file is instead, if it is a sound shard of something else; else nothing.
std::string other_identity(const File& file, const Manifest& manifest, const std::string& hash,
                           const Skeleton& skeleton,
                           const std::map<std::uint64_t, Record>& records) {
  for (const auto& [shard, record] : records)
    if (record.hash == hash)
      return "its bytes are those of " + shard_name(shard) + ": files were exchanged";
  const std::string id = sha256_hex(to_text(manifest)), found = id_in(file, skeleton, id);
  const std::size_t n_other = std::inner_product(
      id.begin(), id.end(), found.begin(), std::size_t{0}, std::plus<>(), std::not_equal_to<>());
  const bool is_hex = found.find_first_not_of("0123456789abcdef") == found.npos;
  return is_hex && n_other > kMaxNamedBytes
             ? "its store is " + found + "; wanted " + id + ": it is of another store"
             : "";
}

std::string line_of(const Dataset& dataset, const Record& record, std::uint64_t block,
                    const std::string& what) {
  const Rows rows = rows_behind_block(dataset, {record.first_row, record.n_rows}, block);
  return dataset.path + " block " + std::to_string(block) + ", rows " + std::to_string(rows.first) +
         "–" + std::to_string(rows.end() - 1) + ": " + what;
}

// A flipped checksum leaves the values sound: with the right one in its place the file is whole.
bool is_checksum_alone(const File& file, const Record& record, const Places& places,
                       const BadBlock& bad) {
  const std::uint64_t offset = places.checksums[bad.dataset] + bad.block * sizeof(std::uint64_t);
  return file_hash_hex(PatchedFile(file, offset, bad.found), record.bytes) == record.hash;
}

std::vector<std::string> lines_of(const File& file, const Manifest& manifest, const Record& record,
                                  const Places& places) {
  const auto datasets = datasets_of(manifest);
  const auto bad = bad_blocks(file, manifest, record.shard, places);
  std::vector<std::string> lines;
  for (const BadBlock& block : bad) {
    const Dataset& dataset = datasets[block.dataset];
    if (bad.size() == 1 && is_checksum_alone(file, record, places, block)) {
      lines.push_back("/checksums" + line_of(dataset, record, block.block,
                                             "this checksum was changed, the values are sound"));
    } else if (lines.size() < kMaxLines) {
      lines.push_back(line_of(dataset, record, block.block, "bytes were changed"));
    }
  }
  return lines;
}

// What a writer leaves zero: the bytes that neither HDF5 nor a dataset takes.
bool has_zeros_between(const File& file, const Manifest& manifest, std::uint64_t shard,
                       const Skeleton& skeleton) {
  const std::uint64_t n_rows = rows_of_shard(manifest, shard).n;
  const auto datasets = datasets_of(manifest);
  std::map<std::uint64_t, std::uint64_t> taken = {{skeleton.file_bytes, skeleton.file_bytes}};
  for (const auto& [offset, bytes] : skeleton.extents) taken[offset] = offset + bytes.size();
  for (std::size_t i = 0; i < datasets.size(); ++i) {
    const std::uint64_t data = skeleton.places.data[i], sums = skeleton.places.checksums[i];
    taken[data] = data + n_entries(datasets[i], n_rows) * datasets[i].row_bytes;
    taken[sums] = sums + n_blocks(datasets[i], n_rows) * sizeof(std::uint64_t);
  }
  std::uint64_t end = 0;
  for (const auto& [begin, next] : taken) {
    if (begin > end) {
      std::vector<std::byte> gap(begin - end);
      read_all(file, end, gap);
      if (std::ranges::any_of(gap, [](std::byte b) { return b != std::byte{0}; })) return false;
    }
    end = std::max(end, next);
  }
  return true;
}

}  // namespace

std::uint64_t block_hash(const File& file, std::uint64_t place, const Dataset& dataset, Rows rows) {
  std::vector<std::byte> bytes(rows.n * dataset.row_bytes);
  read_all(file, place + rows.first * dataset.row_bytes, bytes);
  Xxh3 hash;
  hash.update(bytes);
  return hash.digest64();
}

std::vector<BadBlock> bad_blocks(const File& file, const Manifest& manifest, std::uint64_t shard,
                                 const Places& places) {
  const std::uint64_t n_rows = rows_of_shard(manifest, shard).n;
  const auto datasets = datasets_of(manifest);
  std::vector<BadBlock> bad;
  for (std::size_t i = 0; i < datasets.size(); ++i) {
    std::vector<std::uint64_t> stored(n_blocks(datasets[i], n_rows));
    read_all(file, places.checksums[i], std::as_writable_bytes(std::span(stored)));
    for (std::uint64_t block = 0; block < stored.size(); ++block) {
      const Rows rows = rows_of_block(datasets[i], n_rows, block);
      const std::uint64_t found = block_hash(file, places.data[i], datasets[i], rows);
      if (found != stored[block])
        bad.push_back({.dataset = i, .block = block, .found = found, .stored = stored[block]});
    }
  }
  return bad;
}

bool is_whole(const File& file, const Manifest& manifest, std::uint64_t shard,
              const Skeleton& skeleton) {
  return has_bytes_of(file, skeleton) && has_zeros_between(file, manifest, shard, skeleton) &&
         bad_blocks(file, manifest, shard, skeleton.places).empty();
}

std::vector<std::string> find_damage(const File& file, const Manifest& manifest,
                                     const Record& record, const Skeleton& skeleton,
                                     const std::map<std::uint64_t, Record>& records) {
  const std::string hash = file_hash_hex(file, record.bytes);
  if (hash == record.hash) return {};
  const std::string not_recorded = "its XXH3-128 is " + hash + ", its record says " + record.hash;
  if (file.size() != skeleton.file_bytes) return {not_recorded};
  if (auto other = other_identity(file, manifest, hash, skeleton, records); !other.empty())
    return {other};
  const auto flipped = flipped_metadata(file, skeleton);
  std::vector<std::string> lines;
  if (flipped.size() > kMaxNamedBytes) {
    lines.emplace_back("HDF5's metadata: " + std::to_string(flipped.size()) +
                       " bytes were changed");
  } else {
    for (const std::uint64_t byte : flipped)
      lines.push_back("HDF5's metadata, byte " + std::to_string(byte) + ": was changed");
  }
  const auto blocks = lines_of(file, manifest, record, skeleton.places);
  lines.insert(lines.end(), blocks.begin(), blocks.end());
  if (lines.empty())
    lines.emplace_back(not_recorded +
                       ", but its values and metadata are sound: bytes between them were changed");
  return lines;
}

}  // namespace bezel::store
