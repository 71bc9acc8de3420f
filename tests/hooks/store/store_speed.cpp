// How fast a store is written and read, beside the disk's raw speed in the same minute.
// usage: store_speed FOLDER [GIGABYTES [WORKERS]]; removes what it wrote
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <random>

#include "bezel/hooks/store/reader.h"
#include "bezel/hooks/store/writer.h"

namespace {

namespace fs = std::filesystem;
using namespace bezel::store;  // NOLINT: a program of one page

constexpr std::uint64_t kWidth = 1536, kBatch = 4096, kShardRows = 20 * kBatch;  // 240 MiB

double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

double seconds(const std::function<void()>& action) {
  const auto start = std::chrono::steady_clock::now();
  action();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Processor time too: on a busy machine it is the number that can be compared.
void tell(const char* what, double n_bytes, const std::function<void()>& action) {
  const double before = cpu_seconds(), time = seconds(action), cpu = cpu_seconds() - before;
  std::printf("%-32s %6.2f GB/s  (%.2f s, processor %.2f s/GB)\n", what, n_bytes / time / 1e9, time,
              cpu / n_bytes * 1e9);
  std::fflush(stdout);
}

// As `dd bs=4M conv=fsync` does: one file, sequential, synced at the end.
void write_raw(const fs::path& path, std::span<const std::byte> block, std::uint64_t n_bytes) {
  const int file = ::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
  for (std::uint64_t done = 0; done < n_bytes; done += block.size())
    if (::write(file, block.data(), block.size()) < 0) std::exit(1);
  if (::fsync(file) != 0) std::exit(1);
  ::close(file);
}

void read_raw(const fs::path& path, std::span<std::byte> block) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  while (::read(file, block.data(), block.size()) > 0) {
  }
  ::close(file);
}

Manifest manifest_of(std::uint64_t n_rows) {
  return checked({.total_rows = n_rows,
                  .rows_per_shard = kShardRows,
                  .values = {{.name = "blocks.5.hook_resid_post",
                              .axes = {"d_model"},
                              .shape = {kWidth},
                              .dtype = DType::kBFloat16}}});
}

void write_store(const fs::path& folder, const Manifest& manifest, std::size_t n_workers) {
  std::vector<std::byte> rows(kBatch * kWidth * 2);
  std::mt19937_64 random(3);
  for (std::byte& byte : rows) byte = static_cast<std::byte>(random());
  const auto owner = std::make_shared<const std::vector<std::byte>>(std::move(rows));
  const std::span<const std::byte> bytes(*owner);
  Writer writer(folder, manifest, {.n_workers = n_workers});
  for (const std::uint64_t shard : writer.todo()) {
    writer.begin(shard);
    for (std::uint64_t done = 0; done < writer.rows_of(shard).n; done += kBatch) {
      writer.put("token_id", bytes.first(kBatch * 4), owner);
      writer.put("document", bytes.first(kBatch * 8), owner);
      writer.put("position", bytes.first(kBatch * 4), owner);
      writer.put("blocks.5.hook_resid_post", bytes, owner);
    }
  }
  writer.finish();
}

void read_store(const fs::path& folder, std::uint64_t n_rows) {
  const double n_bytes = static_cast<double>(n_rows * kWidth * 2);
  std::vector<std::byte> block(kBatch * kWidth * 2);
  for (const auto& [what, checksum] : {std::pair{"read, no checksums", Checksum::kNever},
                                       std::pair{"read, each block compared", Checksum::kAlways}}) {
    const Reader reader(folder, {.checksum = checksum});
    tell(what, n_bytes, [&] {
      for (std::uint64_t row = 0; row < n_rows; row += kBatch)
        reader.read_bytes("blocks.5.hook_resid_post", {row, kBatch}, block);
    });
  }
  const Reader reader(folder, {.checksum = Checksum::kNever});
  tell("read, widened to float32 arrays", n_bytes, [&] {
    for (std::uint64_t row = 0; row < n_rows; row += kBatch)
      reader.read<float>("blocks.5.hook_resid_post", row, kBatch);
  });
  constexpr int kSingle = 200'000;
  std::mt19937_64 random(5);
  const double time = seconds([&] {
    for (int i = 0; i < kSingle; ++i)
      reader.read_bytes("blocks.5.hook_resid_post", {random() % n_rows, 1},
                        std::span(block).first(kWidth * 2));
  });
  std::printf("%-44s %6.0f thousand rows/s\n", "single rows in random order", kSingle / time / 1e3);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fputs("usage: store_speed FOLDER [GIGABYTES [WORKERS]]\n", stderr), 2;
  const fs::path folder = fs::path(argv[1]) / "store_speed";
  const double gigabytes = argc > 2 ? std::atof(argv[2]) : 2;
  const std::size_t n_workers = argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 2;
  const auto n_shards = static_cast<std::uint64_t>(gigabytes * 1e9 / (kShardRows * kWidth * 2)) + 1;
  const std::uint64_t n_rows = n_shards * kShardRows, n_bytes = n_rows * kWidth * 2;
  fs::create_directories(folder);
  std::vector<std::byte> block(std::size_t{4} << 20, std::byte{7});
  // Each takes the pages that the other gave back: a guest's fresh pages cost ten times as much.
  for (int round = 0; round < 3; ++round) {
    tell("raw write and fsync, like dd", static_cast<double>(n_bytes),
         [&] { write_raw(folder / "raw", block, n_bytes); });
    fs::remove(folder / "raw");
    tell("Writer, all sealed", static_cast<double>(n_bytes),
         [&] { write_store(folder / "acts", manifest_of(n_rows), n_workers); });
    if (round < 2) fs::remove_all(folder / "acts");
  }
  write_raw(folder / "raw", block, n_bytes);
  tell("raw read, like cat", static_cast<double>(n_bytes),
       [&] { read_raw(folder / "raw", block); });
  read_store(folder / "acts", n_rows);
  fs::remove_all(folder);
}
