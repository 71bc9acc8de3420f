// Models verified in processes of their own, several at a time: they share no HDF5 library and no
// threads of torch, and one that crashes takes no other with it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "bezel/verify/report.h"

namespace bezel::verify {

enum class News : char { kPhase = 'p', kStep = 's', kReport = 'r', kError = 'e' };

/// From a job to the one who waits: one line for each piece of news.
class Channel {
 public:
  explicit Channel(int file) : file_(file) {}
  void send(News news, const std::string& text) const;

 private:
  int file_;
};

/// What became of a job: a report, or why there is none.
struct JobResult {
  std::optional<Report> report{};
  std::string error{};
};

struct Jobs {
  std::size_t n = 0, n_at_once = 1;
  /// In the job's process. An exception is its error.
  std::function<Report(std::size_t job, const Channel& channel)> work{};
  /// Here, as they come.
  std::function<void(std::size_t job, News news, const std::string& text)> on_news{};
  std::function<void(std::size_t job, JobResult result)> on_done{};
};

/// Until all are done. When `is_interrupted` is set, those that run are told by SIGINT and waited
/// for, and no other begins; nor does one after a job without a report.
void run(const Jobs& jobs, const std::atomic<bool>& is_interrupted);

}  // namespace bezel::verify
