#include "bezel/verify/progress.h"

#include <unistd.h>

#include <algorithm>

namespace bezel::verify {
namespace {

constexpr std::size_t kBarColumns = 24;

}  // namespace

std::string bar(std::size_t n, std::size_t all, std::size_t n_columns) {
  const std::size_t n_full = all == 0 ? 0 : std::min(n, all) * n_columns / all;
  return "[" + std::string(n_full, '#') + std::string(n_columns - n_full, '.') + "]";
}

Progress::Progress(std::FILE* out, std::size_t n_phases)
    : out_(out), is_terminal_(isatty(fileno(out)) != 0), n_phases_(n_phases) {}

void Progress::begin(const std::string& model, const std::string& phase) {
  ++n_begun_;
  if (is_terminal_) return show(model, phase);
  std::fprintf(out_, "%s: %s\n", model.c_str(), phase.c_str());
  std::fflush(out_);
}

void Progress::show(const std::string& model, const std::string& what) {
  if (!is_terminal_) return;
  const std::size_t n_done = n_begun_ == 0 ? 0 : n_begun_ - 1;
  std::fprintf(out_, "\r\033[K%s %zu/%zu %s: %.60s", bar(n_done, n_phases_, kBarColumns).c_str(),
               n_begun_, n_phases_, model.c_str(), what.c_str());
  std::fflush(out_);
}

void Progress::clear() const {
  if (!is_terminal_) return;
  std::fprintf(out_, "\r\033[K");
  std::fflush(out_);
}

}  // namespace bezel::verify
