#include "bezel/hooks/store/manifest.h"

#include <algorithm>
#include <set>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/json.h"

namespace bezel::store {
namespace {

using nlohmann::json;

constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 62, kMaxShards = 1'000'000;
constexpr std::size_t kMaxValues = 100'000, kMaxAxes = 8, kMaxNameBytes = 512, kMaxShown = 10;
constexpr std::uint64_t kBlockBytes = std::uint64_t{4} << 20;  // about; between 1 and 8 MiB

[[noreturn]] void refuse(const std::string& why) {
  throw ArgumentError("a store's manifest: " + why);
}

// As a JSON string: one line of ASCII whatever its bytes are.
std::string in_quotes(const std::string& name) {
  return json(name).dump(-1, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace);
}

bool is_plain(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes && name != "." && name != ".." &&
         std::ranges::none_of(name, [](unsigned char c) { return c < ' ' || c == '/'; });
}

// Bytes of `rows` rows, or of as many shards' entries.
std::uint64_t n_bytes(const Value& value, std::uint64_t rows) {
  std::uint64_t bytes = size_of(value.dtype);
  for (const std::uint64_t length : value.shape) {
    if (length == 0) refuse(in_quotes(value.name) + " has an axis of length 0");
    if (__builtin_mul_overflow(bytes, length, &bytes) || bytes > kMaxBytes)
      refuse(in_quotes(value.name) + " has rows of more than 2^62 bytes");
  }
  if (__builtin_mul_overflow(bytes, rows, &bytes) || bytes > kMaxBytes)
    refuse(in_quotes(value.name) + " has more than 2^62 bytes");
  return bytes;
}

void check_value(const Value& value) {
  if (!is_plain(value.name))
    refuse(in_quotes(value.name) +
           " cannot be a name: no slash, no control character, 1 to 512 bytes");
  if (value.axes.size() != value.shape.size() || value.axes.size() > kMaxAxes)
    refuse(in_quotes(value.name) + " has " + std::to_string(value.axes.size()) + " axes and " +
           std::to_string(value.shape.size()) + " lengths; wanted as many, 8 at most");
  if (!is_of_rows(value.dtype))
    refuse(in_quotes(value.name) + " is " + std::string(to_string(value.dtype)) +
           ", which rows cannot be");
  for (const std::string& axis : value.axes)
    if (!is_plain(axis)) refuse(in_quotes(value.name) + " has an axis without a plain name");
}

json to_json(const Value& value) {
  return {{"name", value.name},
          {"axes", value.axes},
          {"shape", value.shape},
          {"dtype", to_string(value.dtype)},
          {"rows_per_block", value.rows_per_block},
          {"per_shard", value.per_shard}};
}

Value value_of(const json& entry, const std::string& what) {
  if (!entry.is_object() || entry.size() != 6)
    throw StoreError(what + ": has a value with other fields");
  Value value{.name = text_at(entry, "name", what),
              .rows_per_block = number_at(entry, "rows_per_block", what)};
  const auto dtype = dtype_of(text_at(entry, "dtype", what));
  const auto axes = entry.find("axes"), shape = entry.find("shape"),
             per_shard = entry.find("per_shard");
  const auto is_list = [&](const json::const_iterator& found, bool (*is)(const json&)) {
    return found != entry.end() && found->is_array() && std::ranges::all_of(*found, is);
  };
  if (!dtype || !is_list(axes, [](const json& axis) { return axis.is_string(); }) ||
      !is_list(shape, [](const json& n) { return n.is_number_unsigned(); }) ||
      per_shard == entry.end() || !per_shard->is_boolean())
    throw StoreError(what + ": " + in_quotes(value.name) +
                     " has no axes, shape, dtype or per_shard that bezel knows");
  value.dtype = *dtype;
  value.axes = axes->get<std::vector<std::string>>();
  value.shape = shape->get<std::vector<std::uint64_t>>();
  value.per_shard = per_shard->get<bool>();
  return value;
}

std::string shown(const json& flat, const std::string& key) {
  constexpr std::size_t kMaxBytes = 80;
  if (!flat.contains(key)) return "nothing";
  const std::string text = flat[key].dump(-1, ' ', true);  // ASCII: may be cut anywhere
  return text.size() <= kMaxBytes ? text : text.substr(0, kMaxBytes) + "…";
}

}  // namespace

Manifest checked(Manifest manifest) {
  if (manifest.total_rows == 0 || manifest.rows_per_shard == 0) refuse("has no rows");
  const std::uint64_t n_shards = (manifest.total_rows - 1) / manifest.rows_per_shard + 1;
  if (n_shards > kMaxShards)
    refuse("asks for more than 1,000,000 shards; take more rows per shard");
  if (manifest.values.size() > kMaxValues) refuse("has more than 100,000 names");
  std::set<std::string> names = {"token_id", "document", "position", "type"};  // of labels
  std::uint64_t total = 0;
  for (Value& value : manifest.values) {
    check_value(value);
    if (!names.insert(value.name).second)
      refuse("has " + in_quotes(value.name) + " twice, or it is a label");
    total += n_bytes(
        value, value.per_shard ? n_shards : std::max(manifest.total_rows, manifest.rows_per_shard));
    if (total > kMaxBytes) refuse("has more than 2^62 bytes");
    if (value.rows_per_block == 0)
      value.rows_per_block = std::max<std::uint64_t>(1, kBlockBytes / n_bytes(value, 1));
    value.rows_per_block =
        std::min(value.rows_per_block, value.per_shard ? 1 : manifest.rows_per_shard);
  }
  const json request = parse_json(manifest.request, "a store's manifest: request");
  if (!request.is_object()) refuse("request is no JSON object");
  try {
    manifest.request = request.dump();
    if (to_text(manifest).size() > kMaxManifestBytes) refuse("is larger than 16 MiB");
  } catch (const json::exception&) {  // what it throws for other bytes than UTF-8
    refuse("is not UTF-8");
  }
  return manifest;
}

std::string to_text(const Manifest& manifest) {
  json values = json::array();
  for (const Value& value : manifest.values) values.push_back(to_json(value));
  const json root = {{"bezel_store", kSchema},
                     {"total_rows", manifest.total_rows},
                     {"rows_per_shard", manifest.rows_per_shard},
                     {"has_types", manifest.has_types},
                     {"values", std::move(values)},
                     {"request", json::parse(manifest.request)}};
  return root.dump(1) + "\n";  // keys are sorted
}

Manifest parse_manifest(std::string_view text, const std::string& file) {
  const json root = parse_json(text, file);
  if (!root.is_object()) throw StoreError(file + ": is no JSON object");
  if (const auto schema = number_at(root, "bezel_store", file); schema != kSchema)
    throw StoreError(file + ": has schema " + std::to_string(schema) + "; this bezel reads " +
                     std::to_string(kSchema));
  const auto values = root.find("values"), request = root.find("request"),
             types = root.find("has_types");
  if (values == root.end() || !values->is_array() || request == root.end() ||
      !request->is_object() || types == root.end() || !types->is_boolean())
    throw StoreError(file + ": has no values, has_types or request");
  Manifest manifest{.total_rows = number_at(root, "total_rows", file),
                    .rows_per_shard = number_at(root, "rows_per_shard", file),
                    .has_types = types->get<bool>(),
                    .request = request->dump()};
  for (const json& entry : *values) manifest.values.push_back(value_of(entry, file));
  try {
    manifest = checked(std::move(manifest));
  } catch (const ArgumentError& error) {
    throw StoreError(file + ": " + error.what());
  }
  if (to_text(manifest) != text) throw StoreError(file + ": is not as bezel writes it");
  return manifest;
}

std::vector<std::string> differences(std::string_view store, std::string_view run) {
  const json before = parse_json(store, kManifestName).flatten();
  const json after = parse_json(run, kManifestName).flatten();
  std::set<std::string> keys;
  for (const json& side : {before, after})
    for (const auto& [key, value] : side.items()) keys.insert(key);
  std::vector<std::string> told;
  for (const std::string& key : keys) {
    const std::string was = shown(before, key), is = shown(after, key);
    const bool differs = before.contains(key) != after.contains(key) ||
                         (before.contains(key) && before[key] != after[key]);
    if (differs && told.size() < kMaxShown)
      told.push_back(key + ": the store has " + was + ", this run " + is);
  }
  return told;
}

}  // namespace bezel::store
