// P4 on the small trained model, as it is and with one thing wrong.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "bezel/adapters/load.h"
#include "bezel/verify/phases.h"

namespace bezel::verify {
namespace {

const std::filesystem::path kNano = std::filesystem::path(BEZEL_TEST_DATA) / "nano";

Subject subject_of(bridge::Bridge model) {
  return {.folder = kNano,
          .model = std::move(model),
          .bundle = {},
          .tolerances = tolerances(at::kFloat, at::kCPU),
          .on_progress = {}};
}

Phase run(const Subject& subject) {
  const c10::NoGradGuard no_gradients;
  at::set_num_threads(1);
  Phase phase{.id = "P4", .title = "generation", .checks = {}};
  generation(subject, phase);
  return phase;
}

std::vector<std::string> failed(const Phase& phase) {
  std::vector<std::string> names;
  for (const Check& check : phase.checks) {
    if (check.verdict() == Verdict::kFailed) names.push_back(check.name);
  }
  return names;
}

TEST(Generation, WithoutAReferenceItIsIncompleteAndNothingFails) {
  const auto phase = run(subject_of(adapters::load(kNano)));
  EXPECT_EQ(failed(phase), std::vector<std::string>());
  EXPECT_EQ(phase.verdict(), PhaseVerdict::kIncomplete);
  EXPECT_EQ(std::ranges::count(phase.checks, Verdict::kSkipped, &Check::verdict), 2);
}

TEST(Generation, AnEosIdThatTheModelLacksIsNamed) {
  const auto loaded = adapters::load(kNano);
  auto spec = loaded.spec();
  spec.eos_token_ids = {};
  const auto phase = run(subject_of({spec, loaded.weights()}));
  EXPECT_EQ(failed(phase), (std::vector<std::string>{"ids that end a row", "a row ends at 1"}));
  EXPECT_EQ(phase.origin()->why, "bezel has none, the configuration 1");
}

TEST(Generation, AnEosIdBeyondTheConfigurationsIsNamed) {
  const auto loaded = adapters::load(kNano);
  auto spec = loaded.spec();
  spec.eos_token_ids = {1, 9};
  const auto phase = run(subject_of({spec, loaded.weights()}));
  EXPECT_EQ(failed(phase), std::vector<std::string>{"ids that end a row"});
  EXPECT_EQ(phase.origin()->measured, 1);
}

TEST(Generation, ItStopsWhereItIsTold) {
  auto subject = subject_of(adapters::load(kNano));
  struct Stop {};
  int n_calls = 0;
  subject.on_progress = [&](const std::string&) {
    if (++n_calls == 3) throw Stop();
  };
  EXPECT_THROW(run(subject), Stop);
}

}  // namespace
}  // namespace bezel::verify
