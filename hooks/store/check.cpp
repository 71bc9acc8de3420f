#include "bezel/hooks/store/check.h"

#include <algorithm>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/shard_check.h"
#include "bezel/hooks/store/shard_file.h"

namespace bezel::store {
namespace {

namespace fs = std::filesystem;

// The message of an error about a file, without the file's name.
std::string without(const std::string& path, const std::string& what) {
  return what.starts_with(path + ": ") ? what.substr(path.size() + 2) : what;
}

// Reads every byte where it was asked to, or where the metadata is other than it should be.
std::vector<std::string> look_into(Io& io, const fs::path& path, const Survey& found,
                                   const Record& record, Depth depth) {
  std::string refusal;
  try {
    open_shard(io, path, found.manifest, record, Trust::kRecordedBytes);
    if (depth == Depth::kQuick) return {};
  } catch (const StoreError& error) {
    refusal = error.what();
  }
  try {
    const auto file = io.open(path, OpenMode::kRead);
    auto damage = find_damage(*file, found.manifest, record,
                              make_skeleton(found.manifest, record.shard), found.records);
    if (damage.empty() && !refusal.empty()) damage.push_back(refusal);
    return damage;
  } catch (const StoreError& error) {
    return {error.what()};
  }
}

}  // namespace

bool CheckReport::is_sound() const { return std::ranges::none_of(findings, &Finding::is_damage); }

CheckReport check(Io& io, const fs::path& folder, Depth depth, const ShardProgress& progress) {
  const Survey found = survey(io, folder);
  CheckReport report{.findings = found.findings,
                     .n_rows = found.n_rows(),
                     .total_rows = found.manifest.total_rows};
  std::uint64_t n_done = 0;
  for (const auto& [shard, record] : found.records) {
    const std::string name = shard_name(shard);
    const bool is_named = std::ranges::any_of(
        found.findings, [&](const Finding& finding) { return finding.file == name; });
    if (!is_named) {
      for (const std::string& line : look_into(io, folder / name, found, record, depth))
        report.findings.push_back({.file = name, .what = without((folder / name).string(), line)});
    }
    if (progress) progress(++n_done, found.records.size());
  }
  return report;
}

}  // namespace bezel::store
