#include "bezel/hooks/store/reader.h"

#include <algorithm>
#include <utility>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/hash.h"
#include "bezel/hooks/store/survey.h"

namespace bezel::store {
namespace {

constexpr std::size_t kMaxOpenFiles = 512;  // half of what a process may have by default

std::string rows_text(Rows rows) {
  return "rows " + std::to_string(rows.first) + "–" + std::to_string(rows.end() - 1);
}

}  // namespace

Reader::Reader(const std::filesystem::path& folder, ReaderOptions options, std::shared_ptr<Io> io)
    : folder_(folder), options_(options), io_(std::move(io)) {
  const Survey found = survey(*io_, folder_);
  refuse_damage(found, folder_);
  id_ = found.id;
  manifest_ = found.manifest;
  datasets_ = datasets_of(manifest_);
  for (std::size_t i = 0; i < datasets_.size(); ++i) index_[datasets_[i].name] = i;
  for (const auto& [number, record] : found.records) add_shard(record);
}

void Reader::add_shard(const Record& record) {
  ShardFile opened =
      open_shard(*io_, folder_ / shard_name(record.shard), manifest_, record, options_.trust);
  Shard shard{
      .rows = {record.first_row, record.n_rows}, .file = std::move(opened.file), .columns = {}};
  for (std::size_t i = 0; i < datasets_.size(); ++i) {
    Column column{.place = opened.places.data[i], .checksums = {}, .is_checked = {}};
    if (options_.checksum != Checksum::kNever) {
      column.checksums.resize(n_blocks(datasets_[i], shard.rows.n));
      read_all(*shard.file, opened.places.checksums[i],
               std::as_writable_bytes(std::span(column.checksums)));
      column.is_checked = std::make_unique<std::atomic<bool>[]>(column.checksums.size());
    }
    shard.columns.push_back(std::move(column));
  }
  if (shards_.size() >= kMaxOpenFiles) shard.file.reset();
  shards_.emplace(record.shard, std::move(shard));
}

std::vector<Rows> Reader::recorded() const {
  std::vector<Rows> runs;
  for (const auto& [number, shard] : shards_) {
    if (!runs.empty() && runs.back().end() == shard.rows.first) {
      runs.back().n += shard.rows.n;
    } else {
      runs.push_back(shard.rows);
    }
  }
  return runs;
}

std::vector<ShardRows> Reader::shards() const {
  std::vector<ShardRows> shards;
  shards.reserve(shards_.size());
  for (const auto& [number, shard] : shards_)
    shards.push_back({.shard = number, .rows = shard.rows});
  return shards;
}

std::size_t Reader::index_of(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end())
    throw ArgumentError(folder_.string() + ": has no \"" + name + "\"; it holds " +
                        std::to_string(manifest_.values.size()) + " values, and labels");
  return found->second;
}

const Dataset& Reader::dataset(const std::string& name) const { return datasets_[index_of(name)]; }

const Dataset& Reader::dataset_of_rows(const std::string& name) const {
  const Dataset& found = dataset(name);
  if (found.per_shard)
    throw ArgumentError("\"" + name +
                        "\" has one entry a shard, and no rows; read_shards() reads it");
  return found;
}

const Dataset& Reader::dataset_of_shards(const std::string& name) const {
  const Dataset& found = dataset(name);
  if (!found.per_shard)
    throw ArgumentError("\"" + name + "\" has rows, not one entry a shard; read() reads it");
  return found;
}

const Reader::Shard& Reader::shard_of(std::uint64_t number) const {
  const auto found = shards_.find(number);
  if (found != shards_.end()) return found->second;
  throw StoreError(folder_.string() + ": shard " + std::to_string(number) +
                   (number < n_shards(manifest_) ? " is not written yet" : " does not exist") +
                   "; the store is to have " + std::to_string(n_shards(manifest_)) + " shards");
}

const Reader::Shard& Reader::shard_with(std::uint64_t row) const {
  const auto found = shards_.find(row / manifest_.rows_per_shard);
  if (found != shards_.end() && row < found->second.rows.end()) return found->second;
  throw StoreError(folder_.string() + ": row " + std::to_string(row) +
                   (row < manifest_.total_rows ? " is not written yet" : " does not exist") +
                   "; the store is to have " + std::to_string(manifest_.total_rows) + " rows");
}

void Reader::read_bytes(const std::string& name, Rows rows, std::span<std::byte> into) const {
  const std::uint64_t row_bytes = dataset_of_rows(name).row_bytes;
  const std::size_t column = index_of(name);
  if (rows.n != into.size() / row_bytes || into.size() % row_bytes != 0)
    throw ArgumentError("\"" + name + "\": " + std::to_string(into.size()) + " bytes for " +
                        std::to_string(rows.n) + " rows of " + std::to_string(row_bytes));
  for (std::byte* at = into.data(); rows.n > 0;) {
    const Shard& shard = shard_with(rows.first);
    const Rows part{rows.first, std::min(rows.n, shard.rows.end() - rows.first)};
    read_from(shard, column, {part.first - shard.rows.first, part.n}, at);
    at += part.n * row_bytes;
    rows = {part.end(), rows.n - part.n};
  }
}

void Reader::read_shard_bytes(const std::string& name, std::uint64_t shard,
                              std::span<std::byte> into) const {
  const std::uint64_t n_bytes = dataset_of_shards(name).row_bytes;
  if (into.size() != n_bytes)
    throw ArgumentError("\"" + name + "\": " + std::to_string(into.size()) +
                        " bytes for an entry of " + std::to_string(n_bytes));
  read_from(shard_of(shard), index_of(name), {0, 1}, into.data());
}

// `rows` are entries, counted from the shard's first.
void Reader::read_from(const Shard& shard, std::size_t index, Rows rows, std::byte* into) const {
  const Dataset& dataset = datasets_[index];
  const auto file = file_of(shard);
  const auto take = [&](Rows part) {
    const std::span<std::byte> target(into, part.n * dataset.row_bytes);
    into += target.size();
    return target;
  };
  const auto plain = [&](Rows part) {
    read_all(*file, shard.columns[index].place + part.first * dataset.row_bytes, take(part));
  };
  if (options_.checksum == Checksum::kNever) return plain(rows);
  while (rows.n > 0) {
    const std::uint64_t block = rows.first / dataset.rows_per_block;
    const Rows in_block = rows_of_block(dataset, shard.rows.n, block);
    const Rows part{rows.first, std::min(rows.n, in_block.end() - rows.first)};
    if (options_.checksum == Checksum::kFirst &&
        shard.columns[index].is_checked[block].load(std::memory_order_relaxed)) {
      plain(part);
    } else {
      read_compared(*file, shard, index, part, take(part));
    }
    rows = {part.end(), rows.n - part.n};
  }
}

// Part of one block: the block is read whole and held against its checksum.
void Reader::read_compared(const File& file, const Shard& shard, std::size_t index, Rows part,
                           std::span<std::byte> into) const {
  const Dataset& dataset = datasets_[index];
  const Column& column = shard.columns[index];
  const std::uint64_t block = part.first / dataset.rows_per_block;
  const Rows rows = rows_of_block(dataset, shard.rows.n, block);
  std::vector<std::byte> whole;
  std::span<std::byte> bytes = into;
  if (part != rows) {
    whole.resize(rows.n * dataset.row_bytes);
    bytes = whole;
  }
  read_all(file, column.place + rows.first * dataset.row_bytes, bytes);
  Xxh3 hash;
  hash.update(bytes);
  if (hash.digest64() != column.checksums[block])
    throw StoreError(file.path().string() + ": " + dataset.path + " block " +
                     std::to_string(block) + ", " +
                     rows_text(rows_behind_block(dataset, shard.rows, block)) +
                     ": is not what its checksum says. `bezel store check --full` tells more");
  column.is_checked[block].store(true, std::memory_order_relaxed);
  if (part != rows)
    std::ranges::copy(bytes.subspan((part.first - rows.first) * dataset.row_bytes, into.size()),
                      into.begin());
}

std::shared_ptr<const File> Reader::file_of(const Shard& shard) const {
  if (shard.file) return shard.file;
  const std::uint64_t number = shard.rows.first / manifest_.rows_per_shard;
  return io_->open(folder_ / shard_name(number), OpenMode::kRead);
}

void Reader::require_recorded(Rows rows) const {
  for (; rows.n > 0 && rows.end() > rows.first;) {
    const Shard& shard = shard_with(rows.first);
    const std::uint64_t n = std::min(rows.n, shard.rows.end() - rows.first);
    rows = {rows.first + n, rows.n - n};
  }
  if (rows.n > 0) shard_with(total_rows());
}

}  // namespace bezel::store
