#include "bezel/hooks/store/info.h"

#include <array>
#include <cstdio>

namespace bezel::store {
namespace {

std::string bytes_text(std::uint64_t n_bytes) {
  constexpr std::array<const char*, 5> kUnits = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  double number = static_cast<double>(n_bytes);
  std::size_t unit = 0;
  for (; number >= 1024 && unit + 1 < kUnits.size(); ++unit) number /= 1024;
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.2f %s", number, kUnits[unit]);
  return text.data();
}

std::string shape_text(const Value& value) {
  std::string text = value.per_shard ? "[shard" : "[row";
  for (std::size_t i = 0; i < value.axes.size(); ++i)
    text += " " + value.axes[i] + "=" + std::to_string(value.shape[i]);
  return text + "] " + std::string(to_string(value.dtype));
}

std::string journal_text(std::uint64_t rank, const Journal& journal, bool is_locked) {
  return "  " + journal_name(rank) + ": " + std::to_string(journal.records.size()) + " shards, " +
         (is_locked           ? "its writer is at work"
          : journal.has_ended ? "ended"
                              : "stopped") +
         "\n";
}

}  // namespace

std::string info_text(Io& io, const std::filesystem::path& folder) {
  const Survey found = survey(io, folder);
  refuse_damage(found, folder);
  const Manifest& manifest = found.manifest;
  std::uint64_t n_bytes = 0;
  for (const auto& [shard, record] : found.records) n_bytes += record.bytes;
  std::string text = folder.string() + ": store " + found.id + "\n  " +
                     std::to_string(found.n_rows()) + " of " + std::to_string(manifest.total_rows) +
                     " rows, " + std::to_string(found.records.size()) + " of " +
                     std::to_string(n_shards(manifest)) + " shards, " + bytes_text(n_bytes) + "\n";
  for (const Value& value : manifest.values)
    text += "  " + value.name + "  " + shape_text(value) + "\n";
  text += "  labels: token_id, document, position" +
          std::string(manifest.has_types ? ", type" : "") + "\n";
  for (const auto& [rank, journal] : found.journals) {
    const auto lock = folder / lock_name(rank);
    const bool is_locked = io.exists(lock) && io.open(lock, OpenMode::kRead)->is_locked();
    text += journal_text(rank, journal, is_locked);
  }
  return text + "  request: " + manifest.request + "\n";
}

}  // namespace bezel::store
