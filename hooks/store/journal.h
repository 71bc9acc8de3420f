// journal-<rank>.log: which shards are sealed. Appended to, never rewritten but by a repair; a
// record is one line of JSON padded with spaces to 512 bytes, newline last:
//
//   {"crc":"…","seq":0,"shard":7,"first_row":…,"n_rows":…,"bytes":…,"hash":"…","prev":"…"}
//   {"crc":"…","seq":1,"end":true,"rows":…,"prev":"…"}
//
// crc is the CRC-32C of what follows it in the record, hash the XXH3-128 of the shard's bytes, prev
// the SHA-256 of the record before (of MANIFEST.json for the first).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bezel/hooks/store/io.h"

namespace bezel::store {

inline constexpr std::size_t kRecordBytes = 512;

/// A sealed shard.
struct Record {
  std::uint64_t shard = 0, first_row = 0, n_rows = 0;
  std::uint64_t bytes = 0;  // of the file
  std::string hash;         // XXH3-128 of them, 32 hexadecimal digits

  bool operator==(const Record&) const = default;
};

/// What the bytes of a journal say.
struct Journal {
  std::vector<Record> records = {};
  std::vector<std::uint64_t> seqs = {};  // of the records: where they stand among the entries
  std::uint64_t n_entries = 0;           // records and ends
  bool has_ended = false;                // the last entry is an end
  std::string founded_on = {};           // prev of the first record: the SHA-256 of its manifest
  std::string prev = {};                 // what the next record's prev has to be
  std::uint64_t torn_bytes = 0;          // of an append that a crash cut short; not a fault
  std::string fault = {};                // what is damaged, and in which record; empty if nothing
};
/// Reads up to the first fault. `id` is that of the store.
Journal parse_journal(std::string_view bytes, const std::string& id);
/// The same of a file; StoreError if it cannot be read, or is larger than any journal.
Journal read_journal(Io& io, const std::filesystem::path& path, const std::string& id);

/// Leaves only the first entries of a journal: a new file under `partial`, then renamed.
void cut_journal(Io& io, const std::filesystem::path& path, const std::filesystem::path& partial,
                 std::uint64_t n_entries);

/// Appends to one journal; each call is durable when it returns.
class JournalWriter {
 public:
  /// `journal` is what the file holds; its torn tail is dropped.
  JournalWriter(std::unique_ptr<File> file, Journal journal);

  void append(const Record& record);
  /// Says that this writer has nothing left; nothing if that is said already.
  void end();

 private:
  void append_line(const std::string& fields);

  std::unique_ptr<File> file_;
  Journal journal_;
};

}  // namespace bezel::store
