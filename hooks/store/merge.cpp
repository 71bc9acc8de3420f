#include "bezel/hooks/store/merge.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/json.h"
#include "bezel/hooks/store/reader.h"

namespace bezel::store {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::uint64_t kPieceBytes = std::uint64_t{8} << 20;

struct Source {
  fs::path folder;
  Reader reader;
};
using Sources = std::deque<Source>;

bool has_shard(const Reader& reader, Rows rows) {
  return std::ranges::any_of(reader.recorded(), [&](Rows run) {
    return run.first <= rows.first && rows.end() <= run.end();
  });
}

std::vector<std::byte> read(const Reader& reader, const std::string& name, Rows rows) {
  std::vector<std::byte> bytes(rows.n * reader.dataset(name).row_bytes);
  reader.read_bytes(name, rows, bytes);
  return bytes;
}

// A manifest without what the sources of one corpus may differ in.
std::string common_text(const Manifest& manifest) {
  Manifest common = manifest;
  common.values.clear();
  json request = json::parse(common.request);
  request.erase("hooks");
  common.request = request.dump();
  return to_text(common);
}

Manifest joined(const Sources& sources) {
  Manifest manifest = sources.front().reader.manifest();
  json request = json::parse(manifest.request);
  for (auto source = sources.begin() + 1; source != sources.end(); ++source) {
    const Manifest& other = source->reader.manifest();
    if (common_text(other) != common_text(manifest)) {
      std::string told = source->folder.string() + " and " + sources.front().folder.string() +
                         " are not of one corpus:";
      for (const std::string& difference : differences(common_text(manifest), common_text(other)))
        told += "\n  " + difference;
      throw StoreError(told);
    }
    for (const Value& value : other.values) {
      if (std::ranges::any_of(manifest.values,
                              [&](const Value& v) { return v.name == value.name; }))
        throw StoreError(source->folder.string() + ": holds \"" + value.name +
                         "\", which a store before it holds too");
      manifest.values.push_back(value);
    }
    const json hooks = json::parse(other.request).value("hooks", json::array());
    if (request.contains("hooks") && request["hooks"].is_array() && hooks.is_array())
      for (const json& hook : hooks) request["hooks"].push_back(hook);
  }
  manifest.request = request.dump();
  return checked(manifest);
}

// Rows that two stores of one manifest hold are refused before anything is written.
void refuse_shared_rows(const Sources& sources, const Manifest& manifest) {
  for (std::uint64_t shard = 0; shard < n_shards(manifest); ++shard) {
    const Source* holder = nullptr;
    for (const Source& source : sources) {
      if (!has_shard(source.reader, rows_of_shard(manifest, shard))) continue;
      if (holder != nullptr)
        throw StoreError(source.folder.string() + " and " + holder->folder.string() +
                         ": both hold " + shard_name(shard));
      holder = &source;
    }
  }
}

// The reader of each dataset of a shard; nothing if one of them has not its rows.
std::optional<std::vector<const Reader*>> readers_of(const Sources& sources,
                                                     const std::vector<Dataset>& datasets,
                                                     Rows rows, bool is_of_one_manifest) {
  std::vector<const Reader*> readers;
  for (const Dataset& dataset : datasets) {
    const auto source = std::ranges::find_if(sources, [&](const Source& candidate) {
      return (is_of_one_manifest || candidate.reader.has(dataset.name)) &&
             has_shard(candidate.reader, rows);
    });
    if (source == sources.end()) return std::nullopt;
    readers.push_back(&source->reader);
  }
  return readers;
}

void refuse_other_labels(const Sources& sources, const std::vector<Dataset>& labels, Rows rows) {
  for (const Dataset& label : labels) {
    const auto wanted = read(sources.front().reader, label.name, rows);
    for (auto source = sources.begin() + 1; source != sources.end(); ++source)
      if (read(source->reader, label.name, rows) != wanted)
        throw StoreError(source->folder.string() + ": has in rows " + std::to_string(rows.first) +
                         "–" + std::to_string(rows.end() - 1) + " another " + label.name +
                         " than " + sources.front().folder.string());
  }
}

void copy_shard(Writer& writer, const std::vector<Dataset>& datasets,
                const std::vector<const Reader*>& readers, std::uint64_t shard) {
  const Rows rows = writer.rows_of(shard);
  for (std::size_t i = 0; i < datasets.size(); ++i) {
    if (datasets[i].per_shard) {
      std::vector<std::byte> entry(datasets[i].row_bytes);
      readers[i]->read_shard_bytes(datasets[i].name, shard, entry);
      writer.put(datasets[i].name, std::move(entry));
      continue;
    }
    const std::uint64_t piece = std::max<std::uint64_t>(1, kPieceBytes / datasets[i].row_bytes);
    for (std::uint64_t first = rows.first; first < rows.end(); first += piece) {
      const Rows part{first, std::min(piece, rows.end() - first)};
      writer.put(datasets[i].name, read(*readers[i], datasets[i].name, part));
    }
  }
}

}  // namespace

void merge(const std::vector<fs::path>& sources, const fs::path& out,
           const std::function<void(const Progress&)>& progress, const std::shared_ptr<Io>& io) {
  if (sources.size() < 2) throw ArgumentError("merge: wanted two stores or more");
  Sources opened;
  for (const fs::path& folder : sources)
    opened.push_back({folder, Reader(folder, {.checksum = Checksum::kFirst}, io)});
  const bool is_of_one_manifest = std::ranges::all_of(opened, [&](const Source& source) {
    return source.reader.id() == opened.front().reader.id();
  });
  const Manifest manifest = is_of_one_manifest ? opened.front().reader.manifest() : joined(opened);
  if (is_of_one_manifest) refuse_shared_rows(opened, manifest);
  const auto datasets = datasets_of(manifest);
  const std::vector<Dataset> labels(
      datasets.begin(), datasets.begin() + static_cast<std::ptrdiff_t>(n_labels(manifest)));
  Writer writer(out, manifest, {.start = Start::kResume, .progress = progress}, io);
  for (const std::uint64_t shard : writer.todo()) {
    const Rows rows = writer.rows_of(shard);
    const auto readers = readers_of(opened, datasets, rows, is_of_one_manifest);
    if (!readers) continue;
    if (!is_of_one_manifest) refuse_other_labels(opened, labels, rows);
    writer.begin(shard);
    copy_shard(writer, datasets, *readers, shard);
  }
  writer.finish();
}

}  // namespace bezel::store
