#include "bezel/hooks/store/repair.h"

#include <optional>
#include <string>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/hash.h"
#include "bezel/hooks/store/shard_check.h"
#include "bezel/hooks/store/shard_file.h"

namespace bezel::store {
namespace {

namespace fs = std::filesystem;

// The records of a journal up to the first that cannot stand beside those of journals before it.
void take_records(const Manifest& manifest, std::uint64_t rank, const Journal& journal,
                  Repair& repair) {
  if (!journal.fault.empty()) repair.cuts[rank] = journal.n_entries;
  for (std::size_t i = 0; i < journal.records.size(); ++i) {
    const Record& record = journal.records[i];
    if (!misfit_of(record, manifest, repair.sound).empty()) {
      repair.cuts[rank] = journal.seqs[i];
      return;
    }
    repair.sound.emplace(record.shard, record);
  }
}

// Links and folders are refused rather than removed: nobody's crash makes them.
std::unique_ptr<File> open_if_there(Io& io, const fs::path& path) {
  return io.exists(path) ? io.open(path, OpenMode::kRead) : nullptr;
}

bool is_as_recorded(Io& io, const fs::path& path, const File& file, const Manifest& manifest,
                    const Record& record) {
  if (file.size() != record.bytes || file_hash_hex(file, record.bytes) != record.hash) return false;
  open_shard(io, path, manifest, record, Trust::kRecordedBytes);  // throws: sealed, yet no shard
  return true;
}

// Its record, made durable, if the file can do without one.
std::optional<Record> record_without_journal(File& file, const Manifest& manifest,
                                             std::uint64_t shard) {
  if (shard >= n_shards(manifest) ||
      !is_whole(file, manifest, shard, make_skeleton(manifest, shard)))
    return std::nullopt;
  file.sync();
  return record_of(file, manifest, shard);
}

// Recorded, or there.
std::uint64_t shards_of(Io& io, const fs::path& folder,
                        const std::map<std::uint64_t, Record>& records) {
  std::uint64_t n = records.size();
  for (const std::string& name : io.list(folder)) {
    const auto shard = shard_of_name(name);
    if (shard && !records.contains(*shard)) ++n;
  }
  return n;
}

void remove_later(Repair& repair, std::uint64_t shard, const File& file) {
  repair.to_remove.push_back(shard);
  repair.n_bytes_freed += file.size();
}

void look_at_recorded(Io& io, const fs::path& folder, const Manifest& manifest, Repair& repair,
                      const std::function<void()>& count) {
  for (auto entry = repair.sound.begin(); entry != repair.sound.end();) {
    const auto& [shard, record] = *entry;
    const fs::path path = folder / shard_name(shard);
    const auto file = open_if_there(io, path);
    count();
    if (file && is_as_recorded(io, path, *file, manifest, record)) {
      ++entry;
      continue;
    }
    if (file) remove_later(repair, shard, *file);
    repair.damaged.insert(repair.sound.extract(entry++));
  }
}

void look_at_unrecorded(Io& io, const fs::path& folder, const Manifest& manifest, Repair& repair,
                        const std::function<void()>& count) {
  for (const std::string& name : io.list(folder)) {
    const auto shard = shard_of_name(name);
    if (!shard || repair.sound.contains(*shard)) continue;
    const auto file = io.open(folder / name, OpenMode::kRead);
    count();
    if (auto record = record_without_journal(*file, manifest, *shard)) {
      repair.regained.emplace(*shard, *std::move(record));
    } else {
      remove_later(repair, *shard, *file);
    }
  }
}

}  // namespace

Repair plan_repair(Io& io, const fs::path& folder, const Survey& found,
                   const ShardProgress& progress) {
  Repair repair;
  for (const auto& [rank, journal] : found.journals)
    take_records(found.manifest, rank, journal, repair);
  const std::uint64_t n_files = shards_of(io, folder, repair.sound);
  std::uint64_t n_read = 0;
  const auto count = [&] {
    if (progress) progress(n_read++, n_files);
  };
  look_at_unrecorded(io, folder, found.manifest, repair, count);  // not in `sound` by now
  look_at_recorded(io, folder, found.manifest, repair, count);
  if (progress) progress(n_files, n_files);
  return repair;
}

void start_repair(Io& io, const fs::path& folder, const Survey& found, const Repair& repair,
                  std::uint64_t rank) {
  for (const auto& [cut, n_entries] : repair.cuts)
    cut_journal(io, folder / journal_name(cut), folder / partial_name(journal_name(cut), rank),
                n_entries);
  for (const std::uint64_t shard : repair.to_remove) io.unlink(folder / shard_name(shard));
  for (const auto& [other, journal] : found.journals) {
    const bool is_whole = journal.has_ended && journal.torn_bytes == 0;
    if (other == rank || (is_whole && !repair.cuts.contains(other))) continue;
    const fs::path path = folder / journal_name(other);
    JournalWriter(io.open(path, OpenMode::kReadWrite), read_journal(io, path, found.id)).end();
  }
  if (!repair.regained.empty()) io.sync_folder(folder);  // their names, before a record tells them
}

}  // namespace bezel::store
