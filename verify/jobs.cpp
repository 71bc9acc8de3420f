#include "bezel/verify/jobs.h"

#include <c10/util/Exception.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "bezel/hooks/error.h"

namespace bezel::verify {
namespace {

constexpr int kPollMilliseconds = 200;

struct Running {
  pid_t process;
  int file;
  std::size_t job;
  std::string unread{};
  JobResult result{};
};

[[noreturn]] void work_and_end(const Jobs& jobs, std::size_t job, const Channel& channel) {
  try {
    channel.send(News::kReport, to_text(jobs.work(job, channel)));
  } catch (const c10::Error& error) {
    channel.send(News::kError, error.what_without_backtrace());
  } catch (const std::exception& error) {
    channel.send(News::kError, error.what());
  }
  _exit(0);  // what the parent has open and buffered is the parent's
}

Running begin(const Jobs& jobs, std::size_t job) {
  int ends[2];
  std::fflush(nullptr);
  if (pipe(ends) != 0) throw Error(std::string("no pipe for a job: ") + std::strerror(errno));
  const pid_t process = fork();
  if (process < 0) throw Error(std::string("no process for a job: ") + std::strerror(errno));
  if (process == 0) {
    close(ends[0]);
    work_and_end(jobs, job, Channel(ends[1]));
  }
  close(ends[1]);
  return {.process = process, .file = ends[0], .job = job};
}

void take(const Jobs& jobs, Running& running, const std::string& line) {
  const auto news = static_cast<News>(line.front());
  const std::string text = line.substr(1);
  if (news == News::kReport) {
    running.result.report = report_from_text(text);
  } else if (news == News::kError) {
    running.result.error = text;
  } else {
    jobs.on_news(running.job, news, text);
  }
}

// False at the end of what it sends.
bool read_some(const Jobs& jobs, Running& running) {
  char part[1 << 16];
  const ssize_t n = read(running.file, part, sizeof(part));
  if (n < 0 && errno == EINTR) return true;
  if (n <= 0) return false;
  running.unread.append(part, static_cast<std::size_t>(n));
  std::size_t begin = 0;
  for (auto end = running.unread.find('\n'); end != std::string::npos;
       end = running.unread.find('\n', begin)) {
    if (end > begin) take(jobs, running, running.unread.substr(begin, end - begin));
    begin = end + 1;
  }
  running.unread.erase(0, begin);
  return true;
}

JobResult ended(Running& running) {
  close(running.file);
  int status = 0;
  while (waitpid(running.process, &status, 0) < 0 && errno == EINTR) continue;
  if (!running.result.report && running.result.error.empty()) {
    running.result.error = WIFSIGNALED(status)
                               ? std::string("the process ended by ") + strsignal(WTERMSIG(status))
                               : "the process ended without a report";
  }
  return std::move(running.result);
}

}  // namespace

void Channel::send(News news, const std::string& text) const {
  std::string line = static_cast<char>(news) + text;
  std::ranges::replace(line, '\n', ' ');
  line += '\n';
  for (std::size_t done = 0; done < line.size();) {
    const ssize_t n = write(file_, line.data() + done, line.size() - done);
    if (n < 0 && errno != EINTR) return;  // nobody waits any more
    if (n > 0) done += static_cast<std::size_t>(n);
  }
}

void run(const Jobs& jobs, const std::atomic<bool>& is_interrupted) {
  std::vector<Running> running;
  std::size_t next = 0;
  bool has_told = false, has_failed = false;
  while (true) {
    while (next < jobs.n && running.size() < jobs.n_at_once && !is_interrupted && !has_failed) {
      running.push_back(begin(jobs, next++));
    }
    if (running.empty()) return;
    if (is_interrupted && !std::exchange(has_told, true)) {
      for (const Running& one : running) kill(one.process, SIGINT);
    }
    std::vector<pollfd> files;
    files.reserve(running.size());
    for (const Running& one : running) files.push_back({one.file, POLLIN, 0});
    if (poll(files.data(), files.size(), kPollMilliseconds) <= 0) continue;
    for (std::size_t i = files.size(); i-- > 0;) {
      if (files[i].revents == 0 || read_some(jobs, running[i])) continue;
      auto result = ended(running[i]);
      has_failed = has_failed || !result.report;
      const std::size_t job = running[i].job;
      running.erase(running.begin() + static_cast<std::ptrdiff_t>(i));
      jobs.on_done(job, std::move(result));
    }
  }
}

}  // namespace bezel::verify
