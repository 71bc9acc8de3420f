// bezel_store check|info|merge|index — looks after stores of activations.
// Exit: 0 sound, 1 damaged, 2 bad usage or no store, 3 interrupted.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <iostream>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/check.h"
#include "bezel/hooks/store/index.h"
#include "bezel/hooks/store/info.h"
#include "bezel/hooks/store/merge.h"

namespace {

using namespace bezel::store;  // NOLINT(google-build-using-namespace): the program of one library

constexpr int kSound = 0, kDamaged = 1, kBadInput = 2, kInterrupted = 3;

std::atomic<bool> interrupted = false;

struct Interrupted : std::exception {};

// One line that is written over on a terminal; nothing where the output is a file.
class ProgressLine {
 public:
  void show(std::uint64_t done, std::uint64_t all) const {
    if (interrupted) throw Interrupted();
    if (is_terminal_)
      std::fprintf(stderr, "\r\033[K%llu of %llu shards", static_cast<unsigned long long>(done),
                   static_cast<unsigned long long>(all));
  }
  void end() const {
    if (is_terminal_) std::fprintf(stderr, "\r\033[K");
  }

 private:
  bool is_terminal_ = isatty(STDERR_FILENO) != 0;
};

int run_check(const std::string& folder, bool is_full) {
  const auto io = make_posix_io();
  const ProgressLine line;
  const CheckReport report =
      check(*io, folder, is_full ? Depth::kFull : Depth::kQuick,
            [&](std::uint64_t done, std::uint64_t all) { line.show(done, all); });
  line.end();
  for (const Finding& finding : report.findings)
    std::cout << (finding.is_damage ? "" : "note: ") << to_string(finding) << '\n';
  std::cout << folder << ": " << (report.is_sound() ? "sound" : "DAMAGED") << ", "
            << (report.is_complete() ? "complete, " : "unfinished, ") << report.n_rows << " of "
            << report.total_rows << " rows" << (is_full ? "" : "; --full reads every byte") << '\n';
  return report.is_sound() ? kSound : kDamaged;
}

int run_merge(const std::vector<std::string>& sources, const std::string& out) {
  const ProgressLine line;
  merge({sources.begin(), sources.end()}, out,
        [&](const Progress& done) { line.show(done.shards, done.shards_planned); });
  line.end();
  return kSound;
}

int run(int argc, char** argv) {
  CLI::App app("Looks after stores of activations", "bezel_store");
  app.require_subcommand(1);
  std::string folder, out;
  std::vector<std::string> sources;
  bool is_full = false;
  auto* const check = app.add_subcommand("check", "Is it what its writer wrote?");
  check->add_flag("--full", is_full, "Read every byte");
  auto* const info = app.add_subcommand("info", "What it holds, and how far it is");
  auto* const index = app.add_subcommand("index", "Write index.h5, which shows all shards as one");
  for (CLI::App* command : {check, info, index})
    command->add_option("STORE", folder, "A folder with a MANIFEST.json")->required();
  auto* const merge = app.add_subcommand("merge", "Stores of one manifest or corpus into one");
  merge->add_option("STORE", sources, "Folders, two or more")->required()->expected(2, -1);
  merge->add_option("--out", out, "The folder to write")->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kSound : kBadInput;
  }
  if (check->parsed()) return run_check(folder, is_full);
  if (merge->parsed()) return run_merge(sources, out);
  const auto io = make_posix_io();
  if (info->parsed()) std::cout << info_text(*io, folder);
  if (index->parsed()) write_index(*io, folder);
  return kSound;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGINT, [](int) {
    if (interrupted.exchange(true)) _exit(kInterrupted);
  });
  try {
    return run(argc, argv);
  } catch (const Interrupted&) {
    std::cerr << "\ninterrupted\n";
    return kInterrupted;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return kBadInput;
  }
}
