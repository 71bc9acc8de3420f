#include "bezel/hooks/store/claim.h"

#include <algorithm>
#include <optional>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/hash.h"
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
  if (!io.exists(folder / kManifestName)) {
    refuse_other_things(request);
    return std::nullopt;
  }
  if (start == Start::kNew && (id.n_ranks <= 1 || !has_begun(io, folder, id)))
    throw StoreError(folder.string() +
                     ": holds a store already; resume it, or take another folder");
  refuse_other_manifest(request, read_text(io, folder / kManifestName, kMaxManifestBytes));
  Survey found = survey(io, folder);
  refuse_damage(found, folder);
  return found;
}

// With the lock in hand: another writer may have come, or have ended, since.
std::optional<Survey> look_again(const Request& request, bool was_there) {
  const auto& [io, folder, manifest, id, start] = request;
  refuse_other_runs(io, folder, id);
  if (!io.exists(folder / kManifestName)) return std::nullopt;
  if (start == Start::kNew && !was_there && id.n_ranks == 1)
    throw StoreError(folder.string() + ": another run has just written a store here");
  refuse_other_manifest(request, read_text(io, folder / kManifestName, kMaxManifestBytes));
  Survey found = survey(io, folder);
  refuse_damage(found, folder);
  return found;
}

bool is_finished(const Survey& found) {
  return found.is_complete() && std::ranges::all_of(found.journals, [](const auto& entry) {
           return entry.second.has_ended && entry.second.torn_bytes == 0;
         });
}

// Whether this rank looks after what another (or an earlier run's) rank left.
bool is_mine(const RunId& id, std::uint64_t number) { return number % id.n_ranks == id.rank; }

void remove_traces(const Request& request, const std::optional<Survey>& found) {
  const auto& [io, folder, manifest, id, start] = request;
  for (const std::string& name : io.list(folder)) {
    const auto rank = rank_of_partial(name);
    if (rank && is_mine(id, *rank)) io.unlink(folder / name);
  }
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

std::vector<std::uint64_t> todo_of(const Request& request, const std::optional<Survey>& found) {
  std::vector<std::uint64_t> todo;
  for (std::uint64_t shard = request.id.rank; shard < n_shards(request.manifest);
       shard += request.id.n_ranks) {
    if (!found || !found->records.contains(shard)) todo.push_back(shard);
  }
  return todo;
}

void refuse_small_disk(const Request& request, std::uint64_t needed) {
  const std::uint64_t free = request.io.free_bytes(request.folder);
  if (needed > free)
    throw StoreError(request.folder.string() + ": this run writes " + std::to_string(needed) +
                     " bytes, the disk has " + std::to_string(free) +
                     " free; take fewer names, positions or a smaller dtype, or another disk");
}

}  // namespace

Claim claim(Io& io, const fs::path& folder, const Manifest& manifest, const RunId& id,
            Start start) {
  const Request request{io, folder, manifest, id, start};
  std::optional<Survey> found = look(request);
  if (found && is_finished(*found)) return {};
  io.make_folder(folder);
  Claim taken{.lock = take_lock(io, folder, id), .journal = {}, .todo = {}};
  found = look_again(request, found.has_value());
  taken.todo = todo_of(request, found);
  taken.bytes_needed = plan_bytes(manifest, taken.todo.size());
  remove_traces(request, found);
  refuse_small_disk(request, taken.bytes_needed);
  if (!found) write_manifest(request);
  const fs::path path = folder / journal_name(id.rank);
  auto file = io.open(path, OpenMode::kReadWriteOrCreate);
  Journal journal = read_journal(io, path, sha256_hex(to_text(manifest)));
  taken.journal = std::make_unique<JournalWriter>(std::move(file), std::move(journal));
  return taken;
}

}  // namespace bezel::store
