// Any bytes as a manifest, as a journal (with right checksums, so that what is in it counts), and
// as changes of a sound store. What is accepted is what was written; all else is a clear refusal.
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <span>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/hash.h"
#include "bezel/hooks/store/journal.h"
#include "bezel/hooks/store/reader.h"
#include "bezel/hooks/store/writer.h"
#include "tests/fuzz/check.h"

namespace bezel::fuzz {
namespace {

namespace fs = std::filesystem;
using namespace store;  // NOLINT(google-build-using-namespace)

// Files in memory, which nobody writes.
class MemoryFile final : public ReadOnlyFile {
 public:
  MemoryFile(fs::path path, const std::string& bytes) : path_(std::move(path)), bytes_(bytes) {}
  const fs::path& path() const override { return path_; }
  std::uint64_t size() const override { return bytes_.size(); }
  std::size_t pread(std::uint64_t offset, std::span<std::byte> into) const override {
    if (offset >= bytes_.size()) return 0;
    const std::size_t n = std::min<std::size_t>(into.size(), bytes_.size() - offset);
    std::memcpy(into.data(), bytes_.data() + offset, n);
    return n;
  }

 private:
  fs::path path_;
  const std::string& bytes_;
};

class MemoryIo final : public Io {
 public:
  explicit MemoryIo(std::map<std::string, std::string> files) : files_(std::move(files)) {}
  std::unique_ptr<File> open(const fs::path& path, OpenMode mode) override {
    require(mode == OpenMode::kRead, "only reads", path.native());
    const auto found = files_.find(path.filename());
    if (found == files_.end()) throw_io_error(path, "open", ENOENT);
    return std::make_unique<MemoryFile>(path, found->second);
  }
  bool rename_new(const fs::path&, const fs::path&) override { throw Broken("a reader renames"); }
  void rename_over(const fs::path&, const fs::path&) override { throw Broken("a reader renames"); }
  void unlink(const fs::path&) override { throw Broken("a reader removes"); }
  bool exists(const fs::path& path) override { return files_.contains(path.filename()); }
  std::vector<std::string> list(const fs::path&) override {
    std::vector<std::string> names;
    for (const auto& [name, bytes] : files_) names.push_back(name);
    return names;
  }
  void make_folder(const fs::path&) override { throw Broken("a reader makes a folder"); }
  void sync_folder(const fs::path&) override { throw Broken("a reader syncs"); }
  std::uint64_t free_bytes(const fs::path&) override { return 0; }

 private:
  std::map<std::string, std::string> files_;
};

Manifest manifest() {
  return checked({.total_rows = 5,
                  .rows_per_shard = 5,
                  .values = {{.name = "z",
                              .axes = {"d_head"},
                              .shape = {4},
                              .dtype = DType::kBFloat16,
                              .rows_per_block = 2},
                             {.name = "z:count", .dtype = DType::kInt64, .per_shard = true}}});
}

// All of a dataset in the one shard.
std::vector<std::byte> bytes_of(const Dataset& dataset) {
  std::vector<std::byte> bytes(n_entries(dataset, 5) * dataset.row_bytes);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7 + 1);
  return bytes;
}

// A sound store, written to disk once.
std::map<std::string, std::string> make_files() {
  std::string folder = fs::temp_directory_path() / "bezel_fuzz_XXXXXX";
  require(::mkdtemp(folder.data()) != nullptr, "has a folder", folder);
  Writer writer(folder, manifest());
  writer.begin(0);
  for (const Dataset& dataset : datasets_of(manifest()))
    writer.put(dataset.name, bytes_of(dataset));
  writer.finish();
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    std::ifstream stream(entry.path(), std::ios::binary);
    files[entry.path().filename()] = std::string(std::istreambuf_iterator<char>(stream), {});
  }
  fs::remove_all(folder);
  return files;
}

void require_short(const std::string& message) {
  constexpr std::size_t kMaxBytes = 1000;
  require(message.size() < kMaxBytes, "is short", message);
  static_cast<void>(nlohmann::json(message).dump());  // throws if it is not UTF-8
}

void run_manifest(std::string_view text) {
  try {
    const Manifest found = parse_manifest(text, "MANIFEST.json");
    require(to_text(found) == text, "comes back", text);
    require(n_shards(found) > 0 && !datasets_of(found).empty(), "has rows", text);
  } catch (const StoreError& error) {
    require_short(error.what());
  }
}

// Each whole record gets the CRC that its bytes have.
void run_journal(std::string text) {
  constexpr std::string_view kStart = "{\"crc\":\"";
  constexpr std::size_t kRest = kStart.size() + 8;
  for (std::size_t at = 0; at + kRecordBytes <= text.size(); at += kRecordBytes) {
    const std::string rest = text.substr(at + kRest, kRecordBytes - kRest);
    text.replace(at, kRest, std::string(kStart) + crc32c_hex(rest));
  }
  const std::string id(64, '0');
  const Journal found = parse_journal(text, id);
  require(found.records.size() <= found.n_entries, "no more records than entries", text);
  require(found.n_entries <= text.size() / kRecordBytes, "no more entries than lines", text);
  require(found.torn_bytes <= kRecordBytes, "a tail is short", text);
  require(found.n_entries == 0 || found.founded_on == id || !found.fault.empty(), "chain", text);
  require_short(found.fault);
}

// Bytes to change: three for the place in all files together, one for the bits.
void run_changes(std::span<const std::uint8_t> changes) {
  static const auto sound = make_files();
  auto files = sound;
  constexpr std::size_t kChangeBytes = 4;
  for (; changes.size() >= kChangeBytes; changes = changes.subspan(kChangeBytes)) {
    std::size_t place = changes[0] | changes[1] << 8 | changes[2] << 16;
    std::size_t n_bytes = 0;
    for (const auto& [name, bytes] : files) n_bytes += bytes.size();
    place %= n_bytes;
    for (auto& [name, bytes] : files) {
      if (place < bytes.size()) {
        bytes[place] = static_cast<char>(bytes[place] ^ changes[3]);
        break;
      }
      place -= bytes.size();
    }
  }
  try {
    const Reader reader("acts", {.checksum = Checksum::kAlways}, std::make_shared<MemoryIo>(files));
    for (const Dataset& dataset : datasets_of(reader.manifest())) {
      std::vector<std::byte> found(n_entries(dataset, 5) * dataset.row_bytes);
      if (dataset.per_shard) {
        reader.read_shard_bytes(dataset.name, 0, found);
      } else {
        reader.read_bytes(dataset.name, {0, 5}, found);
      }
      require(found == bytes_of(dataset), "what was written", dataset.path);
    }
  } catch (const StoreError& error) {
    require_short(error.what());
    require(files != sound, "a sound store is read", error.what());
  }
}

}  // namespace
}  // namespace bezel::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::span<const std::uint8_t> rest(data + 1, size - 1);
  const std::string_view text = bezel::fuzz::as_text(data + 1, size - 1);
  if (data[0] == 'm') {
    bezel::fuzz::run_manifest(text);
  } else if (data[0] == 'j') {
    bezel::fuzz::run_journal(std::string(text));
  } else {
    bezel::fuzz::run_changes(rest);
  }
  return 0;
}
