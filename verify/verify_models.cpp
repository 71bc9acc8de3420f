// verify_models MODEL… — is it the same model? Phase by phase, against a reference bundle.
// Exit: 0 every phase passed, 1 one did not, 2 bad usage or input, 3 interrupted.
#include <ATen/Context.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>

#include "bezel/adapters/load.h"
#include "bezel/hooks/error.h"
#include "bezel/verify/html.h"
#include "bezel/verify/junit.h"
#include "bezel/verify/verify.h"

namespace {

using bezel::verify::Check;
using bezel::verify::Phase;
using bezel::verify::Report;

constexpr int kPassed = 0, kFailed = 1, kBadInput = 2, kInterrupted = 3;

std::atomic<bool> interrupted = false;

struct Arguments {
  std::vector<std::string> models;
  std::vector<int> phases;
  std::string reference, dtype = "float32", device = "cpu", json, html, junit;
  double strict = 1;
  bool resume = false;
};

std::string is_device(const std::string& word) {
  const bool is_one = std::regex_match(word, std::regex("cpu|cuda(:[0-9]{1,2})?"));
  return is_one ? "" : "\"" + word + "\" is no device; wanted cpu, cuda or cuda:N";
}

void parse(CLI::App& app, Arguments& arguments) {
  app.add_option("MODEL", arguments.models, "Folders with a Gemma 4 checkpoint")->required();
  app.add_option("--phases", arguments.phases, "Which, by number; all that there are otherwise");
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
  app.add_option("--strict", arguments.strict, "Scale the tolerances by this")
      ->check(CLI::Range(1e-3, 1.0));
}

at::ScalarType dtype_of(const std::string& word) {
  return word == "bfloat16" ? at::kBFloat16 : word == "float64" ? at::kDouble : at::kFloat;
}

// One line that is written over on a terminal; nothing where the output is a file.
class Progress {
 public:
  void show(const std::string& what) const {
    if (interrupted) throw bezel::verify::Interrupted();
    if (is_terminal_) std::fprintf(stderr, "\r\033[K%.100s", what.c_str());
  }
  void end() const {
    if (is_terminal_) std::fprintf(stderr, "\r\033[K");
  }

 private:
  bool is_terminal_ = isatty(STDERR_FILENO) != 0;
};

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

int run(const Arguments& arguments) {
  const auto earlier = finished(arguments);
  const Progress progress;
  bezel::verify::VerifyOptions options{
      .phases = arguments.phases,
      .reference = {},
      .dtype = dtype_of(arguments.dtype),
      .device = at::Device(arguments.device),
      .strict = arguments.strict,
      .on_progress = [&](const std::string& what) { progress.show(what); }};
  if (!arguments.reference.empty()) options.reference = arguments.reference;
  std::vector<Report> reports;
  for (const std::string& model : arguments.models) {
    const auto kept = earlier.find(bezel::verify::model_name(model));
    reports.push_back(kept != earlier.end() ? kept->second : bezel::verify::verify(model, options));
    progress.end();
    print(reports.back());
    write_all(arguments, reports);
    if (reports.back().is_interrupted) return kInterrupted;
  }
  return std::ranges::all_of(reports, &Report::passed) ? kPassed : kFailed;
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
