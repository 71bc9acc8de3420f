#include "tests/hooks/store/support.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/check.h"
#include "bezel/hooks/store/hash.h"
#include "bezel/hooks/store/reader.h"

namespace bezel::store {

namespace fs = std::filesystem;

TempFolder::TempFolder() {
  std::string pattern = fs::temp_directory_path() / "bezel_store_XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  path_ = fs::canonical(pattern);
}

TempFolder::~TempFolder() { fs::remove_all(path_); }

Manifest small_manifest() {
  return checked({.total_rows = 21,
                  .rows_per_shard = 8,
                  .values = {{.name = "blocks.0.hook_resid_post",
                              .axes = {"d_model"},
                              .shape = {6},
                              .dtype = DType::kBFloat16,
                              .rows_per_block = 3},
                             {.name = "blocks.0.attn.hook_z",
                              .axes = {"head", "d_head"},
                              .shape = {2, 3},
                              .dtype = DType::kFloat32},
                             {.name = kMean,
                              .axes = {"d_model"},
                              .shape = {6},
                              .dtype = DType::kFloat64,
                              .per_shard = true},
                             {.name = kCount, .dtype = DType::kInt64, .per_shard = true}},
                  .request = R"({"model": "nano", "corpus": {"hash": "abc"}})"});
}

std::vector<std::byte> row_bytes(const Dataset& dataset, Rows rows) {
  std::vector<std::byte> bytes(rows.n * dataset.row_bytes);
  std::uint64_t salt = 7;
  for (const char c : dataset.name) salt = salt * 31 + static_cast<unsigned char>(c);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const std::uint64_t at = rows.first * dataset.row_bytes + i;
    std::uint64_t mixed = (at + salt) * 0x9E3779B97F4A7C15;
    bytes[i] = static_cast<std::byte>((mixed ^ (mixed >> 29)) >> 32);
  }
  return bytes;
}

void fill(Writer& writer, const Manifest& manifest, std::uint64_t batch) {
  const auto datasets = datasets_of(manifest);
  for (const std::uint64_t shard : writer.todo()) {
    writer.begin(shard);
    const Rows rows = writer.rows_of(shard);
    for (std::uint64_t first = rows.first; first < rows.end(); first += batch) {
      const Rows part{first, std::min(batch, rows.end() - first)};
      for (const Dataset& dataset : datasets)
        if (!dataset.per_shard) writer.put(dataset.name, row_bytes(dataset, part));
    }
    for (const Dataset& dataset : datasets)
      if (dataset.per_shard) writer.put(dataset.name, row_bytes(dataset, {shard, 1}));
  }
  writer.finish();
}

void dump(const fs::path& folder, WriterOptions options, std::shared_ptr<Io> io,
          std::uint64_t batch) {
  const Manifest manifest = small_manifest();
  Writer writer(folder, manifest, std::move(options), std::move(io));
  fill(writer, manifest, batch);
}

std::string bytes_of(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(stream), {});
}

void write_file(const fs::path& file, const std::string& bytes) {
  fs::remove(file);
  std::ofstream(file, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

std::map<std::string, std::string> files_of(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (!rank_of_lock(name)) files[name] = sha256_hex(bytes_of(entry.path()));
  }
  return files;
}

std::map<std::string, std::string> all_files_of(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder))
    files[entry.path().filename()] = bytes_of(entry.path());
  return files;
}

std::string refusal_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const StoreError& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was refused";
  return "";
}

void expect_all_rows(const fs::path& folder) {
  const Reader reader(folder);
  for (const Dataset& dataset : datasets_of(reader.manifest())) {
    const Rows all{0, dataset.per_shard ? 3 : reader.total_rows()};
    std::vector<std::byte> found(all.n * dataset.row_bytes);
    if (dataset.per_shard) {
      for (const std::uint64_t shard : {0, 1, 2})
        reader.read_shard_bytes(
            dataset.name, shard,
            std::span(found).subspan(shard * dataset.row_bytes, dataset.row_bytes));
    } else {
      reader.read_bytes(dataset.name, all, found);
    }
    EXPECT_EQ(found, row_bytes(dataset, all)) << dataset.path;
  }
}

std::string check_text(const fs::path& folder, bool is_full, bool damage_only) {
  const auto io = make_posix_io();
  std::string text;
  for (const Finding& finding : check(*io, folder, is_full ? Depth::kFull : Depth::kQuick).findings)
    if (finding.is_damage || !damage_only) text += to_string(finding) + "\n";
  return text;
}

}  // namespace bezel::store
