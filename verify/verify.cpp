#include "bezel/verify/verify.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <chrono>
#include <iterator>

#include "bezel/adapters/load.h"
#include "bezel/hooks/error.h"
#include "bezel/verify/phases.h"

namespace bezel::verify {
namespace {

using Clock = std::chrono::steady_clock;

constexpr adapters::Modalities kTextAlone = {.vision = adapters::Load::kNever,
                                             .audio = adapters::Load::kNever};

// Thousands of runs on tensors of a few kilobytes: threads would wait for each other most of the
// time, and on a busy machine all of it.
class SmallModelThreads {
 public:
  explicit SmallModelThreads(const bridge::Bridge& model) : before_(at::get_num_threads()) {
    if (model.n_parameters() < kSmall) at::set_num_threads(1);
  }
  ~SmallModelThreads() { at::set_num_threads(before_); }
  SmallModelThreads(const SmallModelThreads&) = delete;
  SmallModelThreads& operator=(const SmallModelThreads&) = delete;
  SmallModelThreads(SmallModelThreads&&) = delete;
  SmallModelThreads& operator=(SmallModelThreads&&) = delete;

 private:
  static constexpr std::int64_t kSmall = 10'000'000;
  int before_;
};

std::string word_of(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? "bfloat16" : dtype == at::kDouble ? "float64" : "float32";
}

bool is_there(Looks part, const bridge::ModelSpec& spec) {
  if (part == Looks::kAtImages) return spec.vision.has_value();
  return part == Looks::kAtText || spec.audio.has_value();
}

// Those that were asked for, or all that look at a part which the model has.
std::vector<PhaseEntry> chosen(const std::vector<int>& numbers, const bridge::ModelSpec& spec) {
  std::vector<PhaseEntry> phases;
  if (numbers.empty()) {
    std::ranges::copy_if(kPhases, std::back_inserter(phases),
                         [&](const PhaseEntry& entry) { return is_there(entry.looks, spec); });
  }
  for (const int number : numbers) {
    const std::string id = std::string("P").append(std::to_string(number));
    const auto* const found = std::ranges::find(kPhases, id, &PhaseEntry::id);
    if (found == kPhases.end()) {
      std::string all;
      for (const PhaseEntry& phase : kPhases) all.append(" ").append(phase.id);
      throw ArgumentError("there is no phase " + id + "; there are" + all);
    }
    phases.push_back(*found);
  }
  return phases;
}

std::optional<Bundle> bundle_of(const std::filesystem::path& folder, const VerifyOptions& options) {
  const auto path = options.reference.value_or(folder / "reference.h5");
  if (!options.reference && !std::filesystem::exists(path)) return std::nullopt;
  return Bundle(path);
}

// What nothing foresaw is a failure of what was being done; the other phases still run.
Check stopped_by(const std::string& doing, const std::string& why) {
  return {.name = doing, .measured = 1, .unit = "errors", .why = why};
}

// `doing` is what was announced last.
Subject loaded(const std::filesystem::path& folder, const VerifyOptions& options, bool with_media,
               std::string& doing) {
  const auto modalities = with_media ? adapters::Modalities() : kTextAlone;
  return {.folder = folder,
          .model = adapters::load(
              folder, {.dtype = options.dtype, .device = options.device, .modalities = modalities}),
          .bundle = bundle_of(folder, options),
          .tolerances = tolerances(options.dtype, options.device.type(), options.strict),
          .on_progress = [&](const std::string& what) {
            doing = what;
            if (options.on_progress) options.on_progress(what);
          }};
}

// Why the phase cannot run; empty where it can.
std::string obstacle(const PhaseEntry& entry, const Subject& subject) {
  if (!is_there(entry.looks, subject.model.spec())) {
    return subject.folder.string() + " has no " +
           (entry.looks == Looks::kAtImages ? "vision_config" : "audio_config");
  }
  if (!entry.needs_reference || subject.bundle) return "";
  return "there is no reference.h5 in " + subject.folder.string() +
         "; write one with `bezel reference MODEL --out MODEL/reference.h5`";
}

// Appends to the report even when it is stopped in the middle; `doing` is what was announced last.
void run_phase(const PhaseEntry& entry, const Subject& subject, const std::string& doing,
               Report& report) {
  const auto start = Clock::now();
  Phase& phase = report.phases.emplace_back(
      Phase{.id = std::string(entry.id), .title = std::string(entry.title), .checks = {}});
  try {
    if (const auto why = obstacle(entry, subject); !why.empty()) {
      phase.checks.push_back({.name = "what the phase needs", .why = why, .is_skipped = true});
    } else {
      entry.run(subject, phase);
    }
  } catch (const Interrupted&) {
    phase.checks.push_back({.name = "the rest", .why = "interrupted", .is_skipped = true});
    report.is_interrupted = true;
  } catch (const FormatError&) {
    throw;  // of the files, not of the model
  } catch (const Error& error) {
    phase.checks.push_back(stopped_by(doing, error.what()));
  } catch (const c10::Error& error) {
    phase.checks.push_back(stopped_by(doing, error.what_without_backtrace()));
  }
  phase.seconds = std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

void announce(const Subject& subject, const std::string& what) {
  if (subject.on_progress) subject.on_progress(what);
}

void add(const Subject& subject, Phase& phase, Check check) {
  announce(subject, check.name);
  phase.checks.push_back(std::move(check));
}

std::string model_name(const std::filesystem::path& folder) {
  return std::filesystem::weakly_canonical(folder).filename().string();
}

std::size_t n_phases(const std::filesystem::path& folder, const std::vector<int>& numbers) {
  try {
    return chosen(numbers, adapters::read_spec(folder)).size();
  } catch (const Error&) {
    return 0;
  }
}

Report verify(const std::filesystem::path& folder, const VerifyOptions& options) {
  const c10::NoGradGuard no_gradients;
  const auto phases = chosen(options.phases, adapters::read_spec(folder));
  std::string doing;
  Report report{.model = model_name(folder),
                .dtype = word_of(options.dtype),
                .device = options.device.str(),
                .versions = {},
                .reference = {},
                .phases = {}};
  std::optional<Subject> subject;  // one at a time is in memory
  bool has_media = false;
  for (const PhaseEntry& phase : phases) {
    const bool wants_media = phase.looks != Looks::kAtText;
    if (!subject || has_media != wants_media) {
      subject.reset();
      subject.emplace(loaded(folder, options, wants_media, doing));
      has_media = wants_media;
    }
    if (subject->bundle) {
      report.versions = subject->bundle->versions();
      report.reference = subject->bundle->path().filename().string();
    }
    const SmallModelThreads threads(subject->model);
    doing = phase.title;
    if (options.on_phase) options.on_phase(std::string(phase.id) + " " + doing);
    run_phase(phase, *subject, doing, report);
    if (report.is_interrupted) break;
  }
  return report;
}

}  // namespace bezel::verify
