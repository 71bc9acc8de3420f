// verify_models MODEL… — is it the same model? Phase by phase, against a reference bundle.
// Exit: 0 every phase passed, 1 one did not, 2 bad usage or input, 3 interrupted.
#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>

#include "bezel/adapters/load.h"
#include "bezel/hooks/error.h"
#include "bezel/verify/html.h"
#include "bezel/verify/jobs.h"
#include "bezel/verify/junit.h"
#include "bezel/verify/phases.h"
#include "bezel/verify/progress.h"
#include "bezel/verify/verify.h"

namespace {

using bezel::verify::Channel;
using bezel::verify::Check;
using bezel::verify::JobResult;
using bezel::verify::News;
using bezel::verify::Phase;
using bezel::verify::Progress;
using bezel::verify::Report;
using bezel::verify::VerifyOptions;

constexpr int kPassed = 0, kFailed = 1, kBadInput = 2, kInterrupted = 3;

std::atomic<bool> interrupted = false;

struct Arguments {
  std::vector<std::string> models;
  std::vector<int> phases;
  std::string reference, dtype = "float32", device = "cpu", json, html, junit;
  double strict = 1;
  std::size_t jobs = 1;
  bool resume = false;
};

std::string is_device(const std::string& word) {
  const bool is_one = std::regex_match(word, std::regex("cpu|cuda(:[0-9]{1,2})?"));
  return is_one ? "" : "\"" + word + "\" is no device; wanted cpu, cuda or cuda:N";
}

void parse(CLI::App& app, Arguments& arguments) {
  app.add_option("MODEL", arguments.models, "Folders with a Gemma 4 checkpoint")->required();
  app.add_option("--phases", arguments.phases,
                 "Which, by number; otherwise all that fit the model");
  app.add_option("--reference", arguments.reference,
                 "A bundle, as `bezel reference MODEL --out ref.h5` writes; otherwise "
                 "MODEL/reference.h5");
  app.add_option("--dtype", arguments.dtype, "float32, bfloat16 or float64")
      ->check(CLI::IsMember({"float32", "bfloat16", "float64"}));
  app.add_option("--device", arguments.device, "cpu, cuda or cuda:N")->check(is_device);
  auto* const json = app.add_option("--json", arguments.json, "Write the record here");
  app.add_option("--html", arguments.html, "Write one page that needs no network here");
  app.add_option("--junit", arguments.junit, "Write JUnit XML here");
  app.add_flag("--resume", arguments.resume, "Keep the models that the record has finished")
      ->needs(json);
  app.add_option("--jobs", arguments.jobs, "So many models at once")->check(CLI::Range(1, 64));
  app.add_option("--strict", arguments.strict, "Scale the tolerances by this")
      ->check(CLI::Range(1e-3, 1.0));
}

at::ScalarType dtype_of(const std::string& word) {
  return word == "bfloat16" ? at::kBFloat16 : word == "float64" ? at::kDouble : at::kFloat;
}

void print(const Report& report) {
  std::printf("%s (%s on %s)\n", report.model.c_str(), report.dtype.c_str(), report.device.c_str());
  for (const Phase& phase : report.phases) {
    const auto n_failed =
        std::ranges::count(phase.checks, bezel::verify::Verdict::kFailed, &Check::verdict);
    std::printf("  %s %-18s %-10s %zu checks, %td failed, %.1f s\n", phase.id.c_str(),
                phase.title.c_str(), to_string(phase.verdict()).c_str(), phase.checks.size(),
                n_failed, phase.seconds);
    for (const Check& check : phase.checks) {
      if (check.is_skipped) std::printf("     skipped: %s\n", check.why.c_str());
    }
    if (const Check* origin = phase.origin()) {
      std::printf("     first: %s: %.3g %s, allowed %.3g. %s\n", origin->name.c_str(),
                  origin->measured, origin->unit.c_str(), origin->tolerance, origin->why.c_str());
    }
  }
}

void write(const std::string& path, const std::string& text) {
  if (path.empty()) return;
  std::ofstream file(path, std::ios::trunc);
  file << text;
  file.close();
  if (!file) throw bezel::Error(path + " could not be written");
}

void write_all(const Arguments& arguments, const std::vector<Report>& reports) {
  if (!arguments.json.empty()) {
    auto records = nlohmann::json::array();
    for (const Report& report : reports) records.push_back(to_json(report));
    write(arguments.json, records.dump(1) + "\n");
  }
  if (!arguments.html.empty()) write(arguments.html, bezel::verify::to_html(reports));
  if (!arguments.junit.empty()) write(arguments.junit, bezel::verify::to_junit(reports));
}

// What an earlier run finished, by model.
std::map<std::string, Report> finished(const Arguments& arguments) {
  std::map<std::string, Report> reports;
  std::ifstream file(arguments.json);
  if (!arguments.resume || !file) return reports;
  const auto records = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!records.is_array()) {
    throw bezel::FormatError(arguments.json + " is no record of verify_models; leave --resume out");
  }
  for (const auto& record : records) {
    Report report = bezel::verify::report_from_json(record);
    if (!report.is_interrupted) reports.emplace(report.model, std::move(report));
  }
  return reports;
}

// In a process of its own: see jobs.h.
Report verified(const Arguments& arguments, const std::string& model, const Channel& channel) {
  constexpr auto kBetween = std::chrono::milliseconds(50);  // of news that nobody could read faster
  auto last = std::chrono::steady_clock::time_point();
  VerifyOptions options{.phases = arguments.phases,
                        .reference = {},
                        .dtype = dtype_of(arguments.dtype),
                        .device = at::Device(arguments.device),
                        .strict = arguments.strict};
  options.on_phase = [&](const std::string& phase) { channel.send(News::kPhase, phase); };
  options.on_progress = [&](const std::string& what) {
    if (interrupted) throw bezel::verify::Interrupted();
    if (std::chrono::steady_clock::now() - last < kBetween) return;
    last = std::chrono::steady_clock::now();
    channel.send(News::kStep, what);
  };
  if (!arguments.reference.empty()) options.reference = arguments.reference;
  at::set_num_threads(std::max(1, at::get_num_threads() / static_cast<int>(arguments.jobs)));
  return bezel::verify::verify(model, options);
}

/// The models in the order in which they were given; each is printed when those before it are.
class Results {
 public:
  explicit Results(const Arguments& arguments)
      : arguments_(arguments), results_(arguments.models.size()) {
    auto earlier = finished(arguments);
    for (std::size_t i = 0; i < results_.size(); ++i) {
      const auto kept = earlier.find(bezel::verify::model_name(arguments.models[i]));
      if (kept != earlier.end()) {
        results_[i] = {.report = kept->second};
      } else {
        open_.push_back(i);
      }
    }
    print_next();
  }

  /// The models that are still to be verified.
  const std::vector<std::size_t>& open() const { return open_; }
  const std::string& model(std::size_t job) const { return arguments_.models[open_[job]]; }

  void take(std::size_t job, JobResult result) {
    results_[open_[job]] = std::move(result);
    std::vector<Report> reports;
    for (const auto& one : results_) {
      if (one && one->report) reports.push_back(*one->report);
    }
    write_all(arguments_, reports);
    print_next();
  }

  int exit_code() const {
    const auto has_report = [](const auto& one) { return one && one->report; };
    const bool is_whole = std::ranges::all_of(
        results_, [&](const auto& one) { return has_report(one) && !one->report->is_interrupted; });
    if (interrupted && !is_whole) return kInterrupted;
    if (!std::ranges::all_of(results_, has_report)) return kBadInput;
    return std::ranges::all_of(results_, [](const auto& one) { return one->report->passed(); })
               ? kPassed
               : kFailed;
  }

 private:
  void print_next() {
    for (; n_printed_ < results_.size() && results_[n_printed_]; ++n_printed_) {
      const JobResult& result = *results_[n_printed_];
      if (result.report) {
        print(*result.report);
      } else {
        std::fprintf(stderr, "verify_models: %s\n", result.error.c_str());
      }
    }
    std::fflush(stdout);
  }

  const Arguments& arguments_;
  std::vector<std::optional<JobResult>> results_;  // by model
  std::vector<std::size_t> open_;                  // places among the models, by job
  std::size_t n_printed_ = 0;
};

int run(const Arguments& arguments) {
  Results results(arguments);
  std::size_t n_phases = 0;
  for (std::size_t job = 0; job < results.open().size(); ++job) {
    n_phases += bezel::verify::n_phases(results.model(job), arguments.phases);
  }
  Progress progress(stderr, n_phases);
  const auto name = [&](std::size_t job) { return bezel::verify::model_name(results.model(job)); };
  bezel::verify::run({.n = results.open().size(),
                      .n_at_once = arguments.jobs,
                      .work =
                          [&](std::size_t job, const Channel& channel) {
                            return verified(arguments, results.model(job), channel);
                          },
                      .on_news =
                          [&](std::size_t job, News news, const std::string& text) {
                            if (news == News::kPhase) {
                              progress.begin(name(job), text);
                            } else {
                              progress.show(name(job), text);
                            }
                          },
                      .on_done =
                          [&](std::size_t job, JobResult result) {
                            progress.clear();
                            results.take(job, std::move(result));
                          }},
                     interrupted);
  return results.exit_code();
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Compares Gemma 4 models in bezel with their references, phase by phase."};
  Arguments arguments;
  parse(app, arguments);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kPassed : kBadInput;
  }
  std::signal(SIGINT, [](int) { interrupted = true; });
  try {
    return run(arguments);
  } catch (const bezel::Error& error) {
    std::fprintf(stderr, "verify_models: %s\n", error.what());
    return kBadInput;
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "verify_models: %s\n", error.what_without_backtrace());
    return kBadInput;
  }
}
