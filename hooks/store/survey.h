// What lies in a store's folder, without a look into the shards: the start of reading, checking and
// resuming.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "bezel/hooks/store/io.h"
#include "bezel/hooks/store/journal.h"
#include "bezel/hooks/store/layout.h"

namespace bezel::store {

/// Shards that were read, of how many. What it throws ends the reading.
using ShardProgress = std::function<void(std::uint64_t, std::uint64_t)>;

/// One line of a report.
struct Finding {
  bool is_damage = true;  // else a note: a crash's ordinary traces, an unfinished store
  std::string file;       // in the folder
  std::string what;       // dataset, block or record, and rows
};
std::string to_string(const Finding& finding);

struct Survey {
  std::string manifest_text;
  std::string id;  // the SHA-256 of manifest_text
  Manifest manifest;
  std::map<std::uint64_t, Journal> journals;  // by rank
  std::map<std::uint64_t, Record> records;    // by shard; of all journals
  std::vector<std::uint64_t> unrecorded;      // shards under their own name, without a record
  std::vector<std::string> partials;
  std::vector<Finding> findings;

  std::uint64_t n_rows() const;  // recorded
  bool is_complete() const { return records.size() == n_shards(manifest); }
};

/// Throws StoreError if the folder holds no store, or one of another schema. What is damaged is
/// among the findings: then only what comes before it in the survey is filled. Sound beside a
/// running writer.
Survey survey(Io& io, const std::filesystem::path& folder);

/// Why a record cannot be one of a store's beside `others`; empty if it can.
std::string misfit_of(const Record& record, const Manifest& manifest,
                      const std::map<std::uint64_t, Record>& others);

/// Throws StoreError with the first damage of a survey; nothing if there is none.
void refuse_damage(const Survey& found, const std::filesystem::path& folder);

}  // namespace bezel::store
