#include "bezel/hooks/store/shard_writer.h"

#include <algorithm>
#include <utility>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/shard_file.h"

namespace bezel::store {

ShardWriter::ShardWriter(Io& io, std::filesystem::path folder, const Manifest& manifest,
                         std::uint64_t shard, std::uint64_t rank)
    : io_(io),
      folder_(std::move(folder)),
      partial_(folder_ / partial_name(shard_name(shard), rank)),
      manifest_(manifest),
      shard_(shard),
      rows_(rows_of_shard(manifest, shard)),
      skeleton_(make_skeleton(manifest, shard)) {
  for (Dataset& dataset : datasets_of(manifest)) {
    const std::uint64_t n_wanted = n_entries(dataset, rows_.n);
    columns_.push_back(
        {.dataset = std::move(dataset), .n_wanted = n_wanted, .block = {}, .checksums = {}});
  }
  n_open_columns_ = columns_.size();
  file_ = io_.open(partial_, OpenMode::kCreate);
  try {
    write_skeleton();
  } catch (...) {
    discard();
    throw;
  }
}

void ShardWriter::write_skeleton() {
  file_->allocate(skeleton_.file_bytes);
  for (const auto& [offset, bytes] : skeleton_.extents) write_all(*file_, offset, bytes);
}

void ShardWriter::discard() noexcept {
  try {
    file_.reset();
    io_.unlink(partial_);
  } catch (const std::exception&) {  // this runs while another error is on its way
  }
}

bool ShardWriter::write(std::size_t dataset, std::span<const std::byte> bytes) {
  Column& column = columns_.at(dataset);
  const std::uint64_t row_bytes = column.dataset.row_bytes, n = bytes.size() / row_bytes;
  const std::uint64_t n_left = column.n_wanted - column.n_done;
  if (bytes.size() % row_bytes != 0 || n > n_left)
    throw ArgumentError(column.dataset.path + ": " + std::to_string(bytes.size()) +
                        " bytes; wanted whole entries of " + std::to_string(row_bytes) +
                        " bytes, at most " + std::to_string(n_left) + " of them");
  write_all(*file_, skeleton_.places.data[dataset] + column.n_done * row_bytes, bytes);
  hash(column, bytes);
  return n > 0 && column.n_done == column.n_wanted && n_open_columns_.fetch_sub(1) == 1;
}

void ShardWriter::hash(Column& column, std::span<const std::byte> bytes) const {
  const Dataset& dataset = column.dataset;
  while (!bytes.empty()) {
    const Rows block = rows_of_block(dataset, rows_.n, column.checksums.size());
    const std::uint64_t wanted = (block.end() - column.n_done) * dataset.row_bytes;
    const auto part = bytes.first(std::min<std::uint64_t>(bytes.size(), wanted));
    column.block.update(part);
    column.n_done += part.size() / dataset.row_bytes;
    bytes = bytes.subspan(part.size());
    if (column.n_done == block.end()) {
      column.checksums.push_back(column.block.digest64());
      column.block.reset();
    }
  }
}

Record ShardWriter::seal(const std::optional<std::string>& wanted) {
  if (n_open_columns_ != 0) throw ArgumentError(partial_.string() + ": has rows to come");
  for (std::size_t i = 0; i < columns_.size(); ++i)
    write_all(*file_, skeleton_.places.checksums[i],
              std::as_bytes(std::span(columns_[i].checksums)));
  file_->make_read_only();
  file_->sync();  // a failure is final: the system may have dropped the pages
  file_.reset();
  const auto written = io_.open(partial_, OpenMode::kRead);
  if (!has_bytes_of(*written, skeleton_))
    throw StoreError(partial_.string() + ": its metadata came back other than it was written");
  for (std::size_t i = 0; i < columns_.size(); ++i) check_column(*written, i);
  Record record = record_of(*written, manifest_, shard_);
  const auto name = folder_ / shard_name(shard_);
  if (wanted && record.hash != *wanted)
    throw StoreError(
        name.string() + ": this run makes other bytes than the one that was recorded" +
        ": their XXH3-128 is " + record.hash + ", the record says " + *wanted +
        ". Repair with the model, device kind and versions of that run; the shard is " +
        "left out");
  if (!io_.rename_new(partial_, name))
    throw StoreError(name.string() + ": is there already; another writer made it");
  io_.sync_folder(folder_);
  return record;
}

// The last block as it came back from the file.
void ShardWriter::check_column(const File& file, std::size_t dataset) const {
  const Column& column = columns_[dataset];
  const std::uint64_t block = column.checksums.size() - 1;
  const Rows rows = rows_of_block(column.dataset, rows_.n, block);
  std::vector<std::byte> bytes(rows.n * column.dataset.row_bytes);
  read_all(file, skeleton_.places.data[dataset] + rows.first * column.dataset.row_bytes, bytes);
  Xxh3 found;
  found.update(bytes);
  if (found.digest64() != column.checksums[block])
    throw StoreError(partial_.string() + ": " + column.dataset.path + " block " +
                     std::to_string(block) + " came back with other bytes than were written");
}

}  // namespace bezel::store
