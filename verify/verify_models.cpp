// verify_models MODEL… — is it the same model? Phase by phase, against a reference bundle.
// Exit: 0 every phase passed, 1 one did not, 2 bad usage or input, 3 interrupted.
#include <ATen/Context.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "bezel/adapters/load.h"
#include "bezel/hooks/error.h"
#include "bezel/verify/verify.h"

namespace {

namespace fs = std::filesystem;
using bezel::verify::Check;
using bezel::verify::Phase;
using bezel::verify::Report;

constexpr int kPassed = 0, kFailed = 1, kBadInput = 2, kInterrupted = 3;

std::atomic<bool> interrupted = false;

struct Arguments {
  std::vector<std::string> models;
  std::vector<int> phases;
  std::string reference, dtype = "float32", device = "cpu", json;
  double strict = 1;
};

void parse(CLI::App& app, Arguments& arguments) {
  app.add_option("MODEL", arguments.models, "Folders with a Gemma 4 checkpoint")->required();
  app.add_option("--phases", arguments.phases, "Which, by number; all that there are otherwise");
  app.add_option("--reference", arguments.reference,
                 "A bundle, as `bezel reference MODEL --out ref.h5` writes; otherwise "
                 "MODEL/reference.h5");
  app.add_option("--dtype", arguments.dtype, "float32, bfloat16 or float64")
      ->check(CLI::IsMember({"float32", "bfloat16", "float64"}));
  app.add_option("--device", arguments.device, "cpu, cuda or cuda:N");
  app.add_option("--json", arguments.json, "Write the record here");
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

int run(const Arguments& arguments) {
  nlohmann::json records = nlohmann::json::array();
  bool all_passed = true;
  int status = kPassed;
  const Progress progress;
  for (const std::string& model : arguments.models) {
    bezel::verify::VerifyOptions options{
        .phases = arguments.phases,
        .reference = {},
        .dtype = dtype_of(arguments.dtype),
        .device = at::Device(arguments.device),
        .strict = arguments.strict,
        .on_progress = [&](const std::string& what) { progress.show(what); }};
    if (!arguments.reference.empty()) options.reference = arguments.reference;
    const Report report = bezel::verify::verify(model, options);
    progress.end();
    print(report);
    records.push_back(to_json(report));
    all_passed = all_passed && report.passed();
    if (report.is_interrupted) {
      status = kInterrupted;
      break;
    }
  }
  if (!arguments.json.empty()) std::ofstream(arguments.json) << records.dump(1) << "\n";
  if (status == kInterrupted) return status;
  return all_passed ? kPassed : kFailed;
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
