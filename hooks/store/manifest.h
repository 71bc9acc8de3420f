// MANIFEST.json: what a store holds, written first and never changed. The store's id is the SHA-256
// of its bytes, so nothing in it may be random or a time.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "bezel/hooks/store/dtype.h"

namespace bezel::store {

inline constexpr std::uint64_t kSchema = 1;
inline constexpr const char* kManifestName = "MANIFEST.json";
inline constexpr std::uint64_t kMaxManifestBytes = std::uint64_t{16} << 20;

/// One named value: [row, …axes…], or, of all rows of a shard together, [shard, …axes…].
struct Value {
  std::string name;
  std::vector<std::string> axes = {};     // words of the hook table, those after batch and pos
  std::vector<std::uint64_t> shape = {};  // lengths of the axes; none for one number
  DType dtype = DType::kFloat32;
  std::uint64_t rows_per_block = 0;  // 0: blocks of about 4 MiB
  bool per_shard = false;            // one entry a shard (count, mean, m2 …), merged by who reads

  bool operator==(const Value&) const = default;
};

struct Manifest {
  std::uint64_t total_rows = 0;
  std::uint64_t rows_per_shard = 0;  // the last shard may hold fewer
  bool has_types = false;            // a label more: text, image, video, audio
  std::vector<Value> values = {};
  std::string request = "{}";  // a JSON object: model, corpus, positions, edits, versions …
};

/// The manifest with its choices made (rows_per_block); ArgumentError for one that no store can
/// have: no rows, a name twice or with a slash, an empty axis, sizes beyond 2^62 bytes …
Manifest checked(Manifest manifest);
/// The bytes of MANIFEST.json for a checked manifest: equal manifests give equal bytes.
std::string to_text(const Manifest& manifest);
/// Reads them; StoreError, which starts with `file`, for anything else.
Manifest parse_manifest(std::string_view text, const std::string& file);
/// Where two manifests' texts differ: "/request/model: the store has …, this run …"; at most ten.
std::vector<std::string> differences(std::string_view store, std::string_view run);

}  // namespace bezel::store
