// Small stores for the tests: their rows are known by name and number.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bezel/hooks/store/writer.h"

namespace bezel::store {

/// A folder that goes away with the object.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// Three shards of 8, 8 and 5 rows; a bfloat16 value in blocks of 3 rows, a float32 one of two axes
/// in one block; a mean and a count for each shard.
Manifest small_manifest();
inline constexpr const char* kMean = "blocks.0.hook_resid_post:mean";    // [shard d_model]
inline constexpr const char* kCount = "blocks.0.hook_resid_post:count";  // [shard]

/// What a dataset's rows (or shards' entries) are: every number follows from the name and the row.
std::vector<std::byte> row_bytes(const Dataset& dataset, Rows rows);

/// Writes all that a writer has to write, `batch` rows at a time.
void fill(Writer& writer, const Manifest& manifest, std::uint64_t batch);
void dump(const std::filesystem::path& folder, WriterOptions options = {},
          std::shared_ptr<Io> io = make_posix_io(), std::uint64_t batch = 3);

/// The SHA-256 of each file of a store, without locks.
std::map<std::string, std::string> files_of(const std::filesystem::path& folder);
/// The bytes of each file, locks too.
std::map<std::string, std::string> all_files_of(const std::filesystem::path& folder);
std::string bytes_of(const std::filesystem::path& file);
/// Writes over a file, read-only ones too.
void write_file(const std::filesystem::path& file, const std::string& bytes);

/// The message of the StoreError that an action throws; fails the test if it throws none.
std::string refusal_of(const std::function<void()>& action);
/// That all rows of the small store are there, and are what they should be.
void expect_all_rows(const std::filesystem::path& folder);
/// The findings of a check, one a line; those of damage only if asked for.
std::string check_text(const std::filesystem::path& folder, bool is_full, bool damage_only = true);

}  // namespace bezel::store
