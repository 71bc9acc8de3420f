#include "bezel/hooks/store/claim.h"

#include <algorithm>
#include <optional>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/hash.h"
#include "bezel/hooks/store/repair.h"
#include "bezel/hooks/store/skeleton.h"
#include "bezel/hooks/store/survey.h"

namespace bezel::store {
namespace {

namespace fs = std::filesystem;

// The parts of claim() share these.
struct Request {
  Io& io;
  const fs::path& folder;
  const Manifest& manifest;
  const RunId& id;
  Start start;
};

void refuse_other_manifest(const Request& request, const std::string& found) {
  const std::string wanted = to_text(request.manifest);
  if (found == wanted) return;
  std::string told = request.folder.string() + ": holds another store than this run would write:";
  for (const std::string& difference : differences(found, wanted)) told += "\n  " + difference;
  throw StoreError(told +
                   "\nTake another folder, or the settings of that run; nothing was changed");
}

// Journals that were written for this run's manifest show that the file was changed since.
void refuse_changed_manifest(const Request& request, const std::string& found) {
  const auto& [io, folder, manifest, id, start] = request;
  const std::string wanted = sha256_hex(to_text(manifest));
  if (sha256_hex(found) == wanted) return;
  for (const std::string& name : io.list(folder)) {
    if (rank_of_journal(name) && read_journal(io, folder / name, wanted).founded_on == wanted)
      throw StoreError((folder / kManifestName).string() + ": was changed: its SHA-256 is " +
                       sha256_hex(found) + ", " + name + " was written for " + wanted +
                       ". It cannot be repaired: put a copy of it there; nothing was changed");
  }
}

// Without one a repair has nothing to go by; other starts make it.
bool has_manifest(const Request& request) {
  const bool is_there = request.io.exists(request.folder / kManifestName);
  if (!is_there && request.start == Start::kRepair)
    throw StoreError(request.folder.string() + ": has no " + kManifestName +
                     "; without it nothing can be repaired: put a copy of it there, or dump anew");
  return is_there;
}

// The store that the run may go on with. Changes nothing.
Survey accepted(const Request& request) {
  const auto& [io, folder, manifest, id, start] = request;
  const std::string text = read_text(io, folder / kManifestName, kMaxManifestBytes);
  if (start == Start::kRepair) refuse_changed_manifest(request, text);
  refuse_other_manifest(request, text);
  Survey found = survey(io, folder);
  if (start == Start::kRepair)  // of the rest it makes good
    std::erase_if(found.findings, [](const Finding& f) { return f.file != kManifestName; });
  refuse_damage(found, folder);
  return found;
}

void refuse_other_things(const Request& request) {
  for (const std::string& name : request.io.list(request.folder)) {
    if (!rank_of_lock(name) && !rank_of_partial(name))
      throw StoreError((request.folder / name).string() +
                       ": stands in the way: the folder is neither empty nor a store");
  }
}

// Refuses what has to be refused; changes nothing. The survey is empty where there is no store.
std::optional<Survey> look(const Request& request) {
  const auto& [io, folder, manifest, id, start] = request;
  refuse_other_runs(io, folder, id);
  if (!has_manifest(request)) {
    refuse_other_things(request);
    return std::nullopt;
  }
  if (start == Start::kNew && (id.n_ranks <= 1 || !has_begun(io, folder, id)))
    throw StoreError(folder.string() +
                     ": holds a store already; resume it, or take another folder");
  return accepted(request);
}

// With the lock in hand: another writer may have come, or have ended, since.
std::optional<Survey> look_again(const Request& request, bool was_there) {
  const auto& [io, folder, manifest, id, start] = request;
  refuse_other_runs(io, folder, id);
  if (!has_manifest(request)) return std::nullopt;
  if (start == Start::kNew && !was_there && id.n_ranks == 1)
    throw StoreError(folder.string() + ": another run has just written a store here");
  return accepted(request);
}

bool is_finished(const Survey& found) {
  return found.is_complete() && std::ranges::all_of(found.journals, [](const auto& entry) {
           return entry.second.has_ended && entry.second.torn_bytes == 0;
         });
}

// Whether this rank looks after what another (or an earlier run's) rank left.
bool is_mine(const RunId& id, std::uint64_t number) { return number % id.n_ranks == id.rank; }

void remove_partials(const Request& request) {
  const auto& [io, folder, manifest, id, start] = request;
  for (const std::string& name : io.list(folder)) {
    const auto rank = rank_of_partial(name);
    if (rank && is_mine(id, *rank)) io.unlink(folder / name);
  }
}

void remove_traces(const Request& request, const std::optional<Survey>& found) {
  const auto& [io, folder, manifest, id, start] = request;
  remove_partials(request);
  if (!found) return;
  for (const std::uint64_t shard : found->unrecorded) {
    if (is_mine(id, shard)) io.unlink(folder / shard_name(shard));
  }
  for (const auto& [rank, journal] : found->journals) {
    if (journal.torn_bytes > 0 && rank != id.rank && is_mine(id, rank))
      JournalWriter(io.open(folder / journal_name(rank), OpenMode::kReadWrite), journal);
  }
}

void write_manifest(const Request& request) {
  const auto& [io, folder, manifest, id, start] = request;
  const std::string text = to_text(manifest);
  const fs::path partial = folder / partial_name(kManifestName, id.rank);
  {
    const auto file = io.open(partial, OpenMode::kCreate);
    write_all(*file, 0, std::as_bytes(std::span(text)));
    file->make_read_only();
    file->sync();
  }
  if (!io.rename_new(partial, folder / kManifestName)) {  // another rank of this run was first
    io.unlink(partial);
    refuse_other_manifest(request, read_text(io, folder / kManifestName, kMaxManifestBytes));
  }
  io.sync_folder(folder);
}

std::vector<std::uint64_t> todo_of(const Request& request,
                                   const std::map<std::uint64_t, Record>& recorded) {
  std::vector<std::uint64_t> todo;
  for (std::uint64_t shard = request.id.rank; shard < n_shards(request.manifest);
       shard += request.id.n_ranks) {
    if (!recorded.contains(shard)) todo.push_back(shard);
  }
  return todo;
}

void refuse_small_disk(const Request& request, std::uint64_t needed, std::uint64_t freed = 0) {
  const std::uint64_t free = request.io.free_bytes(request.folder) + freed;
  if (needed > free)
    throw StoreError(request.folder.string() + ": this run writes " + std::to_string(needed) +
                     " bytes, the disk has " + std::to_string(free) +
                     (freed == 0 ? " free" : " free without the damaged shards") +
                     "; take fewer names, positions or a smaller dtype, or another disk");
}

std::unique_ptr<JournalWriter> open_journal(const Request& request) {
  const fs::path path = request.folder / journal_name(request.id.rank);
  auto file = request.io.open(path, OpenMode::kReadWriteOrCreate);
  Journal journal = read_journal(request.io, path, sha256_hex(to_text(request.manifest)));
  return std::make_unique<JournalWriter>(std::move(file), std::move(journal));
}

void go_on(const Request& request, const std::optional<Survey>& found, Claim& taken) {
  taken.todo = todo_of(request, found ? found->records : std::map<std::uint64_t, Record>());
  taken.bytes_needed = plan_bytes(request.manifest, taken.todo.size());
  remove_traces(request, found);
  refuse_small_disk(request, taken.bytes_needed);
  if (!found) write_manifest(request);
  taken.journal = open_journal(request);
}

void repair(const Request& request, const Survey& found, Claim& taken,
            const ShardProgress& progress) {
  const Repair plan = plan_repair(request.io, request.folder, found, progress);
  std::map<std::uint64_t, Record> sound = plan.sound;
  sound.insert(plan.regained.begin(), plan.regained.end());
  taken.todo = todo_of(request, sound);
  taken.bytes_needed = plan_bytes(request.manifest, taken.todo.size());
  for (const auto& [shard, record] : plan.damaged) taken.recorded[shard] = record.hash;
  remove_partials(request);
  refuse_small_disk(request, taken.bytes_needed, plan.n_bytes_freed);
  start_repair(request.io, request.folder, found, plan, request.id.rank);
  taken.journal = open_journal(request);
  for (const auto& [shard, record] : plan.regained) taken.journal->append(record);
}

}  // namespace

Claim claim(Io& io, const fs::path& folder, const Manifest& manifest, const RunId& id, Start start,
            const ShardProgress& repair_progress) {
  const Request request{io, folder, manifest, id, start};
  if (start == Start::kRepair && id.n_ranks > 1)
    throw ArgumentError("a repair by " + std::to_string(id.n_ranks) +
                        " ranks; wanted one, which has the store to itself");
  std::optional<Survey> found = look(request);
  if (start != Start::kRepair && found && is_finished(*found)) return {};
  io.make_folder(folder);
  Claim taken{.lock = take_lock(io, folder, id), .journal = {}, .todo = {}, .recorded = {}};
  found = look_again(request, found.has_value());
  if (start == Start::kRepair) {
    repair(request, *found, taken, repair_progress);
  } else {
    go_on(request, found, taken);
  }
  return taken;
}

}  // namespace bezel::store
