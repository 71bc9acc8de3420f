// P3 on the small trained model, as it is and with one thing wrong in memory.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <functional>

#include "bezel/adapters/load.h"
#include "bezel/verify/phases.h"
#include "bezel/verify/phases/p3_parts.h"

namespace bezel::verify {
namespace {

using bridge::ModelSpec;
using bridge::Weights;
using Names = std::vector<std::string>;

const std::filesystem::path kNano = std::filesystem::path(BEZEL_TEST_DATA) / "nano";

Subject subject_of(bridge::Bridge model) {
  return {.folder = kNano,
          .model = std::move(model),
          .bundle = {},
          .tolerances = tolerances(at::kFloat, at::kCPU),
          .on_progress = {}};
}

Subject loaded(const std::function<void(ModelSpec&, Weights&)>& change) {
  const auto model = adapters::load(kNano);
  auto spec = model.spec();
  auto weights = model.weights();
  change(spec, weights);
  return subject_of({spec, weights});
}

Phase run(const Subject& subject) {
  const c10::NoGradGuard no_gradients;
  at::set_num_threads(1);
  Phase phase{.id = "P3", .title = "weights", .checks = {}};
  weights(subject, phase);
  return phase;
}

Names failed(const Phase& phase) {
  Names names;
  for (const Check& check : phase.checks) {
    if (check.verdict() == Verdict::kFailed) names.push_back(check.name);
  }
  return names;
}

TEST(VerifyWeights, WithoutAReferenceTheyAreIncompleteAndNothingFails) {
  const auto phase = run(subject_of(adapters::load(kNano)));
  EXPECT_EQ(failed(phase), Names());
  EXPECT_EQ(phase.verdict(), PhaseVerdict::kIncomplete);
}

TEST(VerifyWeights, OneOtherBitOfAJointProjectionIsNamedWithItsLayer) {
  const auto phase = run(loaded([](ModelSpec& spec, Weights& weights) {
    auto& qkv = weights.layers[3].attention.qkv;
    qkv = qkv.clone();
    const auto& attention = spec.layers[3].attention;
    qkv[attention.n_heads * attention.d_head][5] *= 1.0001;  // the first row of the keys
  }));
  EXPECT_EQ(failed(phase),
            (Names{"joint projections = the files' separate ones", "W_Q^T W_K, in float64"}));
  EXPECT_EQ(phase.origin()->why,
            "layers.3.attention.qkv is not model.layers.3.self_attn.k_proj.weight");
  EXPECT_EQ(phase.origin()->layer, 3);
}

TEST(VerifyWeights, AnotherValueAndAnotherOutputAreNamed) {
  const auto phase = run(loaded([](ModelSpec&, Weights& weights) {
    weights.ln_final = weights.ln_final * 1.5;
    weights.layers[2].attention.out = weights.layers[2].attention.out * 1.5;
  }));
  EXPECT_EQ(failed(phase), (Names{"other weights = the files' tensors", "W_O W_V, in float64"}));
  EXPECT_EQ(phase.origin()->measured, 2);
}

TEST(VerifyWeights, ADonorOffByOneIsNamed) {
  const auto phase = run(loaded([](ModelSpec& spec, Weights&) {
    for (int layer = 6; layer < 9; ++layer) spec.layers[layer].attention.donor = 3;
    spec.layers[5].attention.donates = false;
    spec.layers[3].attention.donates = true;
  }));
  EXPECT_EQ(failed(phase),
            (Names{"donors and sharers", "keys and values that sharers consume = their donors'"}));
  EXPECT_EQ(phase.origin()->layer, 6);
  EXPECT_TRUE(
      phase.origin()->why.starts_with("layer 6 reads the keys and values of 3, wanted those of 5"))
      << phase.origin()->why;
}

TEST(VerifyWeights, AHeadOfItsOwnIsNoTiedOne) {
  const auto phase = run(loaded([](ModelSpec& spec, Weights& weights) {
    spec.tied_head = false;
    weights.unembed = weights.embed.clone();
  }));
  EXPECT_EQ(failed(phase), (Names{"tensors that the files lack", "tied head"}));
}

TEST(VerifyWeights, FoldingOfAPartTakesALayerOfEachKindWithItsDonor) {
  const auto subject = subject_of(adapters::load(kNano));
  Phase phase{.id = "P3", .title = "weights", .checks = {}};
  folding_checks(subject, phase, /*whole_parameters=*/0);
  ASSERT_EQ(phase.checks.size(), 1U);
  EXPECT_EQ(phase.checks[0].verdict(), Verdict::kPassed) << phase.checks[0].measured;
  // 0 and 4 of their own, 6 and 9 that share, 5 that 6 reads.
  EXPECT_TRUE(phase.checks[0].name.ends_with(", 5 layers of 10")) << phase.checks[0].name;
}

TEST(VerifyWeights, OffencesAreCountedAndTheFirstFiveNamed) {
  std::vector<Offence> offences;
  for (int i = 0; i < 7; ++i) offences.push_back({"tensor " + std::to_string(i), i + 2});
  const auto check = offence_check("a", "tensors", offences);
  EXPECT_EQ(check.measured, 7);
  EXPECT_EQ(check.layer, 2);
  EXPECT_EQ(check.why, "tensor 0; tensor 1; tensor 2; tensor 3; tensor 4; and 2 more");
  EXPECT_EQ(offence_check("a", "tensors", {}).verdict(), Verdict::kPassed);
}

TEST(VerifyWeights, LayersAreReadFromNamesOfTheTextModelAlone) {
  const auto files = ModelFiles::open(kNano);
  EXPECT_EQ(files.layer_of("model.layers.12.mlp.down_proj.weight"), 12);
  EXPECT_EQ(files.layer_of("model.vision_tower.encoder.layers.3.mlp.weight"), std::nullopt);
  EXPECT_EQ(files.layer_of("model.norm.weight"), std::nullopt);
}

}  // namespace
}  // namespace bezel::verify
