#include "bezel/bridge/ops/rows.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <fstream>
#include <mutex>
#include <set>
#include <string>
#include <thread>

namespace bezel::ops {
namespace {

struct NoteThread {
  std::mutex* mutex;
  std::set<std::thread::id>* threads;
  std::set<std::int64_t>* rows;

  void operator()(std::int64_t i) const {
    const std::lock_guard lock(*mutex);
    threads->insert(std::this_thread::get_id());
    rows->insert(i);
  }
};

std::pair<std::size_t, std::size_t> threads_and_rows(std::int64_t n_rows, std::int64_t d) {
  std::mutex mutex;
  std::set<std::thread::id> threads;
  std::set<std::int64_t> rows;
  fused::for_rows(n_rows, d, NoteThread{&mutex, &threads, &rows});
  return {threads.size(), rows.size()};
}

// at::parallel_for is a template: without OpenMP where it is compiled it runs on one thread.
TEST(Rows, AreSharedOutAmongTorchsThreads) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  EXPECT_EQ(threads_and_rows(64, 1024), std::pair(std::size_t{2}, std::size_t{64}));
  EXPECT_EQ(threads_and_rows(64, 512), std::pair(std::size_t{1}, std::size_t{64}));
  at::set_num_threads(before);
}

TEST(Rows, UseTheOneOpenMpRuntimeThatTorchHas) {
  std::ifstream maps("/proc/self/maps");
  if (!maps) GTEST_SKIP() << "no /proc here";
  std::set<std::string> runtimes;
  for (std::string line; std::getline(maps, line);) {
    const auto name = line.find('/');
    if (name == std::string::npos) continue;
    const auto file = line.substr(name);
    if (file.find("omp.so") != std::string::npos) runtimes.insert(file);
  }
  EXPECT_EQ(runtimes.size(), 1U);
}

}  // namespace
}  // namespace bezel::ops
