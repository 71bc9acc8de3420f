// Jobs in processes of their own, and the bar that shows them.
#include "bezel/verify/jobs.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <thread>

#include "bezel/verify/progress.h"

namespace bezel::verify {
namespace {

std::atomic<bool> told = false;  // in a job's process

struct Ran {
  std::map<std::size_t, JobResult> results;
  std::size_t most_at_once = 0;
  std::vector<std::string> steps;
};

Ran ran(Jobs jobs, std::atomic<bool>& is_interrupted) {
  Ran all;
  std::size_t at_once = 0;
  jobs.on_news = [&](std::size_t job, News news, const std::string& text) {
    if (news == News::kPhase) all.most_at_once = std::max(all.most_at_once, ++at_once);
    if (news == News::kStep) all.steps.push_back(std::to_string(job) + " " + text);
    if (text == "stop me") is_interrupted = true;
  };
  jobs.on_done = [&](std::size_t job, JobResult result) {
    if (at_once > 0) --at_once;
    all.results[job] = std::move(result);
  };
  run(jobs, is_interrupted);
  return all;
}

Ran ran(Jobs jobs) {
  std::atomic<bool> is_interrupted = false;
  return ran(std::move(jobs), is_interrupted);
}

void wait_a_little() { std::this_thread::sleep_for(std::chrono::milliseconds(50)); }

TEST(JobsTest, EachGivesItsOwnReportAndSoManyRunAtOnce) {
  const auto work = [](std::size_t job, const Channel& channel) {
    channel.send(News::kPhase, "P1");
    channel.send(News::kStep, "two\nlines");
    wait_a_little();
    return Report{.model = std::string(job * 100'000, 'x')};  // more than a pipe holds
  };
  for (const std::size_t n_at_once : {1U, 3U}) {
    const auto all = ran({.n = 5, .n_at_once = n_at_once, .work = work});
    ASSERT_EQ(all.results.size(), 5U);
    EXPECT_EQ(all.most_at_once, n_at_once);
    for (std::size_t job = 0; job < 5; ++job) {
      ASSERT_TRUE(all.results.at(job).report);
      EXPECT_EQ(all.results.at(job).report->model.size(), job * 100'000);
    }
    EXPECT_EQ(all.steps.front().substr(1), " two lines");
  }
}

TEST(JobsTest, OneThatThrowsOrDiesSaysWhyAndNoOtherBegins) {
  const auto throws = [](std::size_t, const Channel&) -> Report {
    throw std::runtime_error("no such\nfolder");
  };
  const auto dies = [](std::size_t, const Channel&) -> Report {
    std::raise(SIGKILL);
    std::abort();
  };
  const auto leaves = [](std::size_t, const Channel&) -> Report { _exit(0); };
  EXPECT_EQ(ran({.n = 1, .work = throws}).results.at(0).error, "no such folder");
  EXPECT_EQ(ran({.n = 1, .work = dies}).results.at(0).error, "the process ended by Killed");
  EXPECT_EQ(ran({.n = 1, .work = leaves}).results.at(0).error,
            "the process ended without a report");
  EXPECT_EQ(ran({.n = 3, .work = throws}).results.size(), 1U);
}

TEST(JobsTest, AnInterruptIsPassedOnAndWaitedFor) {
  std::atomic<bool> is_interrupted = false;
  const auto work = [](std::size_t job, const Channel& channel) {
    std::signal(SIGINT, [](int) { told = true; });
    channel.send(News::kStep, "ready");
    wait_a_little();
    if (job == 1) channel.send(News::kStep, "stop me");
    while (!told) wait_a_little();
    return Report{.model = "half", .is_interrupted = true};
  };
  const auto all = ran({.n = 3, .n_at_once = 2, .work = work}, is_interrupted);
  ASSERT_EQ(all.results.size(), 2U);  // the third did not begin
  for (const auto& [job, result] : all.results) EXPECT_TRUE(result.report->is_interrupted);
}

std::string written(void (*use)(Progress& progress)) {
  std::FILE* const out = std::tmpfile();
  Progress progress(out, 4);
  use(progress);
  std::rewind(out);
  std::string read;
  for (int c = std::fgetc(out); c != EOF; c = std::fgetc(out)) read += static_cast<char>(c);
  std::fclose(out);
  return read;
}

TEST(ProgressTest, IsALineForEachPhaseWhereNobodyLooks) {
  EXPECT_EQ(written([](Progress& progress) {
              progress.begin("nano", "P1 parity");
              progress.show("nano", "a check");
              progress.clear();
              progress.begin("moe", "P1 parity");
            }),
            "nano: P1 parity\nmoe: P1 parity\n");
}

TEST(ProgressTest, ABarGrowsFromNoneToAll) {
  EXPECT_EQ(bar(0, 4, 8), "[........]");
  EXPECT_EQ(bar(1, 4, 8), "[##......]");
  EXPECT_EQ(bar(4, 4, 8), "[########]");
  EXPECT_EQ(bar(9, 4, 8), "[########]");
  EXPECT_EQ(bar(0, 0, 4), "[....]");
}

}  // namespace
}  // namespace bezel::verify
