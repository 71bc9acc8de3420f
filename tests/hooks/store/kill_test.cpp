// A writer's process that is killed from outside, at moments spread over its whole life.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <optional>
#include <random>
#include <set>
#include <thread>

#include "tests/hooks/store/faulty_io.h"
#include "tests/hooks/store/support.h"

namespace bezel::store {
namespace {

namespace fs = std::filesystem;
using std::chrono::microseconds;
using std::chrono::steady_clock;

// Writes the small store row by row, in a process of its own.
pid_t start_writer(const fs::path& folder) {
  constexpr microseconds kPause{150};
  const pid_t child = ::fork();
  if (child != 0) return child;
  try {
    const auto io = std::make_shared<FaultyIo>();
    io->pause_before_each(kPause);
    dump(folder, {.start = Start::kResume, .n_workers = 2}, io, 1);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "the writer: %s\n", error.what());
    ::_exit(1);
  }
  ::_exit(0);
}

int status_of(pid_t child) {
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status;
}

// Whether it was killed; else it had ended well. Without a moment it may live.
bool is_killed(pid_t child, std::optional<microseconds> after) {
  if (after) {
    std::this_thread::sleep_for(*after);
    ::kill(child, SIGKILL);
  }
  const int status = status_of(child);
  EXPECT_TRUE(WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
  return WIFSIGNALED(status);
}

// What is sealed is sound, and is what an undisturbed writer writes.
void expect_sound(const fs::path& folder, const std::map<std::string, std::string>& wanted) {
  if (!fs::exists(folder / kManifestName)) return;
  EXPECT_EQ(check_text(folder, true), "");
  for (const auto& [name, hash] : files_of(folder)) {
    if (!shard_of_name(name)) continue;
    EXPECT_EQ(hash, wanted.at(name)) << name;
  }
}

TEST(Kill, AtAnyMomentLeavesASoundStoreThatAFreshProcessResumes) {
  constexpr int kKills = 60, kRounds = 50;
  const TempFolder whole;
  const auto start = steady_clock::now();
  ASSERT_EQ(status_of(start_writer(whole / "acts")), 0);
  const auto life = std::chrono::duration<double, std::micro>(steady_clock::now() - start).count();
  const auto wanted = files_of(whole / "acts");
  ASSERT_EQ(wanted.size(), 5U);
  std::mt19937_64 random(11);
  std::uniform_real_distribution<double> part(0, 1);
  const auto moment = [&](double of_life) {
    return microseconds(static_cast<int>(of_life * life));
  };
  int n_killed = 0;
  std::set<std::size_t> n_files;  // that a kill left
  for (int round = 0; round < kRounds || n_killed < kKills; ++round) {
    SCOPED_TRACE(round);
    ASSERT_LT(round, 4 * kRounds) << "writers end before they are killed";
    const TempFolder folder;
    // First in that part of its life; a third of those that go on is killed too, at any time.
    std::optional<microseconds> when = moment((round % kRounds + part(random)) / kRounds);
    while (is_killed(start_writer(folder / "acts"), when)) {
      ++n_killed;
      expect_sound(folder / "acts", wanted);
      ASSERT_FALSE(HasFailure());
      n_files.insert(fs::exists(folder / "acts") ? files_of(folder / "acts").size() : 0);
      when = part(random) < 1.0 / 3 ? std::optional(moment(part(random))) : std::nullopt;
    }
    ASSERT_EQ(files_of(folder / "acts"), wanted);
    ASSERT_EQ(check_text(folder / "acts", true, false), "");
  }
  EXPECT_GE(n_files.size(), 4U) << "in all parts of its life";
}

}  // namespace
}  // namespace bezel::store
