#include "bezel/hooks/store/journal.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/hash.h"
#include "bezel/hooks/store/json.h"

namespace bezel::store {
namespace {

constexpr std::string_view kStart = "{\"crc\":\"";
constexpr std::size_t kCrcDigits = 8, kHashDigits = 32;
constexpr std::uint64_t kMaxJournalBytes = kRecordBytes * std::uint64_t{2'000'000};

std::uint64_t rows_in(const Journal& journal) {
  return std::accumulate(
      journal.records.begin(), journal.records.end(), std::uint64_t{0},
      [](std::uint64_t sum, const Record& record) { return sum + record.n_rows; });
}

bool is_hex(std::string_view text, std::size_t n_digits) {
  return text.size() == n_digits && text.find_first_not_of("0123456789abcdef") == text.npos;
}

// One entry into `journal`. Throws StoreError for one that is not what its writer wrote.
void take_entry(std::string_view line, Journal& journal, const std::string& what) {
  const std::string_view rest = line.substr(kStart.size() + kCrcDigits);
  const std::string crc = crc32c_hex(rest);
  if (!line.starts_with(kStart) || line.substr(kStart.size(), kCrcDigits) != crc)
    throw StoreError(what + " is damaged: its CRC-32C is " + crc);
  const auto entry = parse_json(line, what);
  if (!entry.is_object()) throw StoreError(what + " is no object");
  const std::uint64_t seq = number_at(entry, "seq", what);
  const std::string prev = text_at(entry, "prev", what);
  if (journal.n_entries == 0 && seq == 0) journal.founded_on = prev;
  if (seq != journal.n_entries || prev != journal.prev)
    throw StoreError(what +
                     " does not follow what stands before it: records were lost, moved or "
                     "doubled");
  const bool is_end = entry.contains("end");
  if (is_end) {
    if (number_at(entry, "rows", what) != rows_in(journal))
      throw StoreError(what + " ends with other rows than the records before it have");
  } else {
    Record record{.shard = number_at(entry, "shard", what),
                  .first_row = number_at(entry, "first_row", what),
                  .n_rows = number_at(entry, "n_rows", what),
                  .bytes = number_at(entry, "bytes", what),
                  .hash = text_at(entry, "hash", what)};
    if (!is_hex(record.hash, kHashDigits)) throw StoreError(what + " has a hash that is none");
    journal.records.push_back(std::move(record));
    journal.seqs.push_back(seq);
  }
  journal.has_ended = is_end;
  ++journal.n_entries;
  journal.prev = sha256_hex(line);
}

}  // namespace

Journal parse_journal(std::string_view bytes, const std::string& id) {
  Journal journal{.prev = id};
  while (bytes.size() >= kRecordBytes) {
    const std::string_view line = bytes.substr(0, kRecordBytes);
    if (bytes.size() == kRecordBytes && line.find_first_not_of('\0') == line.npos) break;
    try {
      take_entry(line, journal, "record " + std::to_string(journal.n_entries));
    } catch (const StoreError& error) {
      journal.fault = error.what();
      return journal;
    }
    bytes.remove_prefix(kRecordBytes);
  }
  journal.torn_bytes = bytes.size();
  return journal;
}

Journal read_journal(Io& io, const std::filesystem::path& path, const std::string& id) {
  return parse_journal(read_text(io, path, kMaxJournalBytes), id);
}

void cut_journal(Io& io, const std::filesystem::path& path, const std::filesystem::path& partial,
                 std::uint64_t n_entries) {
  const std::string kept =
      read_text(io, path, kMaxJournalBytes).substr(0, n_entries * kRecordBytes);
  {
    const auto file = io.open(partial, OpenMode::kCreate);
    write_all(*file, 0, std::as_bytes(std::span(kept)));
    file->sync();
  }
  io.rename_over(partial, path);
  io.sync_folder(path.parent_path());
}

JournalWriter::JournalWriter(std::unique_ptr<File> file, Journal journal)
    : file_(std::move(file)), journal_(std::move(journal)) {
  if (journal_.torn_bytes == 0) return;
  file_->truncate(journal_.n_entries * kRecordBytes);
  file_->sync();
  journal_.torn_bytes = 0;
}

void JournalWriter::append(const Record& record) {
  append_line(",\"shard\":" + std::to_string(record.shard) + ",\"first_row\":" +
              std::to_string(record.first_row) + ",\"n_rows\":" + std::to_string(record.n_rows) +
              ",\"bytes\":" + std::to_string(record.bytes) + ",\"hash\":\"" + record.hash + '"');
  journal_.records.push_back(record);
  journal_.seqs.push_back(journal_.n_entries - 1);
  journal_.has_ended = false;
}

void JournalWriter::end() {
  if (journal_.has_ended) return;
  append_line(",\"end\":true,\"rows\":" + std::to_string(rows_in(journal_)));
  journal_.has_ended = true;
}

void JournalWriter::append_line(const std::string& fields) {
  std::string rest = "\",\"seq\":" + std::to_string(journal_.n_entries) + fields + ",\"prev\":\"" +
                     journal_.prev + "\"}";
  rest.resize(kRecordBytes - kStart.size() - kCrcDigits, ' ');
  rest.back() = '\n';
  const std::string line = std::string(kStart) + crc32c_hex(rest) + rest;
  write_all(*file_, journal_.n_entries * kRecordBytes, std::as_bytes(std::span(line)));
  file_->sync();
  ++journal_.n_entries;
  journal_.prev = sha256_hex(line);
}

}  // namespace bezel::store
