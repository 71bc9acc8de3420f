#include "bezel/hooks/store/survey.h"

#include <algorithm>
#include <set>
#include <utility>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/hash.h"

namespace bezel::store {
namespace {

namespace fs = std::filesystem;

// The manifest, or a finding; StoreError for the schema of another bezel.
bool take_manifest(Survey& found) {
  bool is_another = false;
  for (const auto& [rank, journal] : found.journals) {
    if (journal.founded_on.empty() || journal.founded_on == found.id) continue;
    is_another = true;
    found.findings.push_back({.file = kManifestName,
                              .what = "its SHA-256 is " + found.id + ", " + journal_name(rank) +
                                      " was written for " + journal.founded_on +
                                      ": one of them was changed or is of another store"});
  }
  if (is_another) return false;
  try {
    found.manifest = parse_manifest(found.manifest_text, kManifestName);
    return true;
  } catch (const StoreError& error) {
    const bool is_founded = std::ranges::any_of(
        found.journals, [](const auto& entry) { return !entry.second.founded_on.empty(); });
    if (is_founded) throw;  // it is what was written: another bezel's
    found.findings.push_back({.file = kManifestName, .what = error.what()});
    return false;
  }
}

// Records that fit the manifest, each shard once.
void take_records(Survey& found, std::uint64_t rank, const Journal& journal) {
  for (const Record& record : journal.records) {
    if (std::string misfit = misfit_of(record, found.manifest, found.records); !misfit.empty()) {
      found.findings.push_back({.file = journal_name(rank), .what = std::move(misfit)});
    } else {
      found.records.emplace(record.shard, record);
    }
  }
}

std::string rows_text(const Record& record) {
  return "rows " + std::to_string(record.first_row) + "–" +
         std::to_string(record.first_row + record.n_rows - 1);
}

void look_at_shard(Io& io, const fs::path& folder, const Record& record, Survey& found) {
  const std::string name = shard_name(record.shard);
  const auto damaged = [&](const std::string& what) {
    found.findings.push_back({.file = name, .what = what + "; " + rows_text(record)});
  };
  if (!io.exists(folder / name)) return damaged("is missing");
  try {
    const std::uint64_t n_bytes = io.open(folder / name, OpenMode::kRead)->size();
    if (n_bytes != record.bytes)
      damaged("has " + std::to_string(n_bytes) + " bytes; its record says " +
              std::to_string(record.bytes));
  } catch (const StoreError& error) {
    damaged(error.what());
  }
}

// A crash between a shard's rename and its record leaves one such file for each writer.
void judge_unrecorded(Survey& found, std::size_t n_writers) {
  const bool is_damage = found.unrecorded.size() > std::max<std::size_t>(n_writers, 1);
  for (const std::uint64_t shard : found.unrecorded)
    found.findings.push_back(
        {.is_damage = is_damage,
         .file = shard_name(shard),
         .what = is_damage
                     ? "has no record, nor have others: records were lost"
                     : "has no record: its writer stopped just there; a resume writes it anew"});
}

void note_traces(Survey& found) {
  for (const auto& [rank, journal] : found.journals) {
    if (!journal.fault.empty())
      found.findings.push_back({.file = journal_name(rank), .what = journal.fault});
    if (journal.torn_bytes > 0)
      found.findings.push_back({.is_damage = false,
                                .file = journal_name(rank),
                                .what = "ends with an append that was cut short (" +
                                        std::to_string(journal.torn_bytes) +
                                        " bytes); a resume drops it"});
  }
}

}  // namespace

std::string to_string(const Finding& finding) { return finding.file + ": " + finding.what; }

std::uint64_t Survey::n_rows() const {
  std::uint64_t n = 0;
  for (const auto& [shard, record] : records) n += record.n_rows;
  return n;
}

Survey survey(Io& io, const fs::path& folder) {
  if (!io.exists(folder / kManifestName))
    throw StoreError(folder.string() + ": is no store: it has no " + kManifestName);
  Survey found{.manifest_text = read_text(io, folder / kManifestName, kMaxManifestBytes),
               .id = {},
               .manifest = {},
               .journals = {},
               .records = {},
               .unrecorded = {},
               .partials = {},
               .findings = {}};
  found.id = sha256_hex(found.manifest_text);
  // Listed before the journals are read: beside running writers, each of these shards but one for
  // each writer has its record by then.
  const std::vector<std::string> names = io.list(folder);
  for (const std::string& name : names) {
    if (const auto rank = rank_of_journal(name))
      found.journals.emplace(*rank, read_journal(io, folder / name, found.id));
  }
  if (!take_manifest(found)) return found;
  note_traces(found);
  for (const auto& [rank, journal] : found.journals) take_records(found, rank, journal);
  std::size_t n_writers = 0;
  for (const std::string& name : names) {
    if (rank_of_lock(name)) ++n_writers;
    if (rank_of_partial(name)) found.partials.push_back(name);
    const auto shard = shard_of_name(name);
    if (shard && !found.records.contains(*shard)) found.unrecorded.push_back(*shard);
  }
  judge_unrecorded(found, n_writers);
  for (const auto& [shard, record] : found.records) look_at_shard(io, folder, record, found);
  return found;
}

std::string misfit_of(const Record& record, const Manifest& manifest,
                      const std::map<std::uint64_t, Record>& others) {
  const bool is_known = record.shard < n_shards(manifest);
  if (!is_known || rows_of_shard(manifest, record.shard) != Rows{record.first_row, record.n_rows})
    return "its record of shard " + std::to_string(record.shard) +
           " has other rows than the manifest gives it";
  if (others.contains(record.shard))
    return "records shard " + std::to_string(record.shard) + " a second time";
  return "";
}

void refuse_damage(const Survey& found, const fs::path& folder) {
  const auto damage = std::ranges::find_if(found.findings, &Finding::is_damage);
  if (damage == found.findings.end()) return;
  const auto n = std::ranges::count_if(found.findings, &Finding::is_damage);
  throw StoreError((folder / to_string(*damage)).string() +
                   (n > 1 ? " (and " + std::to_string(n - 1) + " more)" : "") +
                   ". `bezel store check` lists all; nothing was changed");
}

}  // namespace bezel::store
