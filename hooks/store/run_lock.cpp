#include "bezel/hooks/store/run_lock.h"

#include <unistd.h>

#include <array>
#include <chrono>
#include <thread>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/json.h"
#include "bezel/hooks/store/layout.h"

namespace bezel::store {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::uint64_t kMaxLockBytes = 4096;

struct Holder {
  std::string run;
  std::uint64_t n_ranks = 0;
  std::string told;  // for messages
};

std::string host() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

std::string start_text() {
  return std::to_string(std::chrono::system_clock::now().time_since_epoch().count());
}

Holder holder_of(Io& io, const fs::path& path) {
  try {
    const std::string text = read_text(io, path, kMaxLockBytes);
    const json content = parse_json(text, path.string());
    if (!content.is_object()) return {};
    return {.run = text_at(content, "run", path.string()),
            .n_ranks = number_at(content, "n_ranks", path.string()),
            .told = " (" + content.dump(-1, ' ', true) + ")"};
  } catch (const StoreError&) {
    return {};  // empty, or cut: it says nothing
  }
}

// A rank that has just taken its lock is about to say whose it is.
Holder patient_holder_of(Io& io, const fs::path& path) {
  constexpr int kTries = 20;
  constexpr auto kPause = std::chrono::milliseconds(25);
  Holder holder = holder_of(io, path);
  for (int i = 1; i < kTries && holder.run.empty(); ++i) {
    std::this_thread::sleep_for(kPause);
    holder = holder_of(io, path);
  }
  return holder;
}

}  // namespace

std::string make_run_name() {
  return host() + "-" + std::to_string(::getpid()) + "-" + start_text();
}

void refuse_other_runs(Io& io, const fs::path& folder, const RunId& id) {
  for (const std::string& name : io.list(folder)) {
    const auto rank = rank_of_lock(name);
    if (!rank || *rank == id.rank || !io.open(folder / name, OpenMode::kRead)->is_locked())
      continue;
    const Holder holder = patient_holder_of(io, folder / name);
    if (holder.run != id.run || holder.n_ranks != id.n_ranks)
      throw StoreError((folder / name).string() + ": another run writes to this store" +
                       holder.told + "; wait for its end, or take another folder");
  }
}

std::unique_ptr<File> take_lock(Io& io, const fs::path& folder, const RunId& id) {
  const fs::path path = folder / lock_name(id.rank);
  auto file = io.open(path, OpenMode::kReadWriteOrCreate);
  if (!file->try_lock())
    throw StoreError(path.string() + ": another writer holds it" + holder_of(io, path).told +
                     "; wait for its end, or take another folder");
  const json content = {{"run", id.run},  {"rank", id.rank},   {"n_ranks", id.n_ranks},
                        {"host", host()}, {"pid", ::getpid()}, {"start", start_text()}};
  const std::string text = content.dump() + "\n";
  file->truncate(0);
  write_all(*file, 0, std::as_bytes(std::span(text)));
  return file;
}

bool has_begun(Io& io, const fs::path& folder, const RunId& id) {
  for (const std::string& name : io.list(folder)) {
    if (rank_of_lock(name) && holder_of(io, folder / name).run == id.run) return true;
  }
  return false;
}

}  // namespace bezel::store
