// P2 passes on models that are right, in each dtype; and each defect of a hook fails it, blamed on
// the name and the block.
//
// The switch is the linker's: this program is linked with --wrap for hooks::Run::fire, so that
// every tap of the library under test calls `fire` below, which a test can make wrong.
#include "bezel/verify/phases/p2_hooks.h"

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "bezel/hooks/run.h"
#include "bezel/verify/phases.h"
#include "bezel/verify/phases/p1_run.h"
#include "tests/bridge/tiny.h"

using bezel::hooks::Run;
using bezel::hooks::SiteRow;

at::Tensor real_fire(Run* run, SiteRow at, at::Tensor value) asm(
    "__real__ZN5bezel5hooks3Run4fireENS0_7SiteRowEN2at6TensorE");
at::Tensor fire(Run* run, SiteRow at,
                at::Tensor value) asm("__wrap__ZN5bezel5hooks3Run4fireENS0_7SiteRowEN2at6TensorE");

namespace bezel::verify {
namespace {

using bridge::Bridge;
using hooks::HookId;
using Defect = at::Tensor (*)(Run& run, SiteRow at, const at::Tensor& value);

/// What is wrong, and where; nothing by default.
struct Mutant {
  Defect defect = nullptr;
  std::vector<SiteRow> at{};
  at::Tensor kept{};  // a weight of the model; or by a defect, from one place for another
  bool stands_at(SiteRow place) const { return std::ranges::find(at, place) != at.end(); }
};
Mutant& mutant() {
  static Mutant now;
  return now;
}

Phase phase_of(const Bridge& model) {
  const at::NoGradGuard no_gradients;
  at::set_num_threads(1);  // tensors too small for more
  const Subject subject{.folder = "",
                        .model = model,
                        .bundle = std::nullopt,
                        .tolerances = tolerances(model.weights().embed.scalar_type(), at::kCPU),
                        .on_progress = {}};
  Phase phase{.id = "P2", .title = "hooks", .checks = {}};
  hooks_hold(subject, phase);
  return phase;
}

std::string words_of(const Phase& phase) {
  const Check* origin = phase.origin();
  if (origin == nullptr) return "nothing";
  return origin->name + " (" + origin->why + "): " + std::to_string(origin->measured);
}

class HooksHold : public ::testing::TestWithParam<bridge::Variant> {};

TEST_P(HooksHold, InEachDtype) {
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const auto phase = phase_of(bridge::tiny_bridge(GetParam().spec(), type));
    EXPECT_EQ(phase.verdict(), PhaseVerdict::kPassed) << type << ": " << words_of(phase);
  }
}

TEST_P(HooksHold, EveryRowOfTheModelIsHeldByEachPart) {
  const Bridge model = bridge::tiny_bridge(GetParam().spec());
  const auto phase = phase_of(model);
  std::set<std::string> names;
  for (const Check& check : phase.checks) names.insert(check.name);
  EXPECT_EQ(names.size(), phase.checks.size());
  for (const SiteRow at : model.inventory().rows()) {
    const std::string row(at.point().name);
    for (const std::string path : {"open path, ", "automatic path, "}) {
      for (const char* claim : {"fires once: ", "neutral: ", "recorded as edited: ",
                                "an edit acts: ", "an edit leaves the past: "}) {
        EXPECT_TRUE(names.contains(path + claim + row)) << path << claim << row;
      }
    }
    const bool has_gradient = at.point().type != hooks::ValueType::kInt64;
    EXPECT_EQ(names.contains("gradient: " + row), has_gradient) << row;
  }
}

TEST(HooksHoldDeep, OfADeepModelTheFirstAndLastBlockOfEachKindAreLookedAt) {
  std::vector<bridge::LayerSpec> layers;
  for (int i = 0; i < 14; ++i) layers.push_back(bridge::tiny_layer(i % 7 != 6, 10));
  const Bridge model = bridge::tiny_bridge(bridge::tiny_model(layers));
  const auto phase = phase_of(model);
  EXPECT_EQ(phase.verdict(), PhaseVerdict::kPassed) << words_of(phase);
  EXPECT_TRUE(phase.checks[0].name.ends_with("of each kind: 0 6 12 13")) << phase.checks[0].name;
}

INSTANTIATE_TEST_SUITE_P(Tiny, HooksHold, ::testing::ValuesIn(bridge::kVariants));

at::Tensor real(Run& run, SiteRow at, const at::Tensor& value) {
  return real_fire(&run, at, value);
}

bool is(SiteRow at, HookId row) { return at.row == static_cast<int>(row.row()); }

/// A defect, where it is put, and the check that has to find it.
struct Case {
  const char* name;
  HookId row;
  int layer;
  const char* found_by;
  Defect defect;
  bridge::ModelSpec (*spec)() = &bridge::experts_spec;
  std::optional<std::pair<HookId, int>> also{};  // another place of the defect: row and layer
  friend void PrintTo(const Case& one, std::ostream* out) { *out << one.name; }
};

const Case kCases[] = {
    {"AnEditHasNoEffect", "attn.hook_z", 2, "open path, an edit acts: attn.hook_z",
     [](Run& run, SiteRow at, const at::Tensor& value) {
       real(run, at, value);
       return value;
     }},
    {"AnEditReachesTheFirstRowAlone", "mlp.hook_pre", 1, "open path, an edit acts: mlp.hook_pre",
     [](Run& run, SiteRow at, const at::Tensor& value) {
       auto result = value.clone();
       result[0].copy_(real(run, at, value)[0]);
       return result;
     }},
    {"RecordedBeforeTheEdit", "mlp.hook_post", 1, "open path, recorded as edited: mlp.hook_post",
     [](Run& run, SiteRow at, const at::Tensor& value) {
       auto result = real(run, at, value);
       run.cache()->put(run.plan().name(at), value.clone());
       return result;
     }},
    {"FiresTwice", "hook_attn_out", 3, "open path, fires once: hook_attn_out",
     [](Run& run, SiteRow at, const at::Tensor& value) {
       return real(run, at, real(run, at, value));
     }},
    {"NeverFires", "ln2.hook_scale", 0, "open path, fires once: ln2.hook_scale",
     [](Run&, SiteRow, const at::Tensor& value) { return value; }},
    {"FiresWithAxesExchanged", "attn.hook_q", 1, "open path, fires once: attn.hook_q",
     [](Run& run, SiteRow at, const at::Tensor& value) {
       return real(run, at, value.transpose(1, 2)).transpose(1, 2);
     }},
    {"FiresInAnotherDtype", "ln1_post.hook_normalized", 2,
     "open path, fires once: ln1_post.hook_normalized",
     [](Run& run, SiteRow at, const at::Tensor& value) {
       return real(run, at, value.to(at::kFloat)).to(value.scalar_type());
     }},
    {"AnEditThatKeepsIsNotNeutral", "hook_resid_pre", 2, "open path, neutral: hook_resid_pre",
     [](Run& run, SiteRow at, const at::Tensor& value) {
       return real(run, at, value) * (1 + 1e-12);
     }},
    {"AnEditReachesThePositionBefore", "hook_mlp_out", 1,
     "open path, an edit leaves the past: hook_mlp_out",
     [](Run& run, SiteRow at, const at::Tensor& value) {
       const auto result = real(run, at, value);
       return result + (result - value).roll(-1, 1);
     }},
    {"AGradientIsDoubled", "attn.hook_rot_q", 2, "gradient: attn.hook_rot_q",
     [](Run& run, SiteRow at, const at::Tensor& value) {
       const auto result = real(run, at, value);
       return result.requires_grad() ? result * 2 - result.detach() : result;
     }},
    {"FiresOneOpLate", "attn.hook_q", 1, "identity: attn.hook_q",
     [](Run& run, SiteRow at, const at::Tensor& value) {
       const SiteRow early{at.site, static_cast<int>(HookId("attn.hook_q").row())};
       const bool waits = run.live(at.site, HookId("attn.hook_q_normed").row());
       if (at == early) return waits ? value : real(run, at, value);
       const bool is_late = run.live(at.site, HookId("attn.hook_q").row());
       return real(run, at, is_late ? real(run, early, value) : value);
     },
     &bridge::experts_spec, std::pair{HookId("attn.hook_q_normed"), 1}},
    {"ASharerTakesKeysFromBeforeTheEdit", "attn.hook_shared_k", 5,
     "identity under edits: attn.hook_attn_scores",
     [](Run& run, SiteRow at, const at::Tensor& value) {
       if (is(at, "attn.hook_shared_k")) {
         const bool is_new = run.live(2 + 1, HookId("attn.hook_rot_k").row());
         return real(run, at, is_new ? mutant().kept : value);
       }
       mutant().kept = value.clone();
       return real(run, at, value);
     },
     &bridge::sharing_spec, std::pair{HookId("attn.hook_rot_k"), 2}},
    {"AnEditOfTheBranchReachesTheSkipPath", "hook_mlp_in", 1,
     "identity under edits: hook_resid_mid",
     [](Run& run, SiteRow at, const at::Tensor& value) {
       const auto result = real(run, at, value);
       return value.requires_grad() ? result : value.copy_(result);
     }},
    {"AnExceptionLeavesTheModelChanged", "hook_resid_post", 3, "exception: hook_resid_post",
     [](Run& run, SiteRow at, const at::Tensor& value) {
       try {
         return real(run, at, value);
       } catch (...) {
         mutant().kept.mul_(1 + 1e-12);
         throw;
       }
     }},
    {"AnExceptionIsSwallowed", "attn.hook_pattern", 3, "exception: attn.hook_pattern",
     [](Run& run, SiteRow at, const at::Tensor& value) {
       try {
         return real(run, at, value);
       } catch (...) {
         return value;
       }
     }},
};

SiteRow place_of(HookId row, int layer) { return {layer + 1, static_cast<int>(row.row())}; }

class Mutants : public ::testing::TestWithParam<Case> {
 protected:
  void TearDown() override { mutant() = {}; }
};

TEST_P(Mutants, AreFoundAndBlamedOnTheirNameAndBlock) {
  const Case& one = GetParam();
  const Bridge model = bridge::tiny_bridge(one.spec());
  mutant() = {
      .defect = one.defect, .at = {place_of(one.row, one.layer)}, .kept = model.weights().ln_final};
  if (one.also) mutant().at.push_back(place_of(one.also->first, one.also->second));
  const auto phase = phase_of(model);
  ASSERT_NE(phase.origin(), nullptr);
  EXPECT_EQ(phase.origin()->name, one.found_by);
  EXPECT_EQ(phase.origin()->layer, one.layer) << words_of(phase);
}

at::Tensor doubled(Run& run, SiteRow at, const at::Tensor& value) {
  return real(run, at, value * 2);
}

// Of P1: the cache has one copy for a donor and those that share with it.
TEST(WatchedRun, ShowsKeysAndValuesAsSharersConsumeThem) {
  const Bridge model = bridge::tiny_bridge(bridge::sharing_spec());
  const std::string made = "blocks.3.attn.hook_rot_k", consumed = "blocks.6.attn.hook_shared_k";
  const auto at = model.inventory().resolve(consumed);
  mutant() = {.defect = &doubled, .at = {at}};
  const auto run = watched_run(model, {.tokens = bridge::tiny_tokens(1, 6)},
                               {model.inventory().resolve(made), at});
  mutant() = {};
  EXPECT_TRUE(at::equal(run.at(consumed), run.at(made) * 2));
}

TEST(WatchedRun, TakesTheExpertsThatItIsGivenAndShowsThoseThatItWouldHaveTaken) {
  const Bridge model = bridge::tiny_bridge(bridge::experts_spec());
  const std::string indices = "blocks.1.moe.hook_expert_indices",
                    weights = "blocks.1.moe.hook_expert_weights";
  const std::vector<SiteRow> names = {model.inventory().resolve(indices),
                                      model.inventory().resolve(weights)};
  const bridge::Input input{.tokens = bridge::tiny_tokens(1, 6)};
  const auto plain = watched_run(model, input, names);
  const auto chosen = plain.at(indices);
  const auto other = watched_run(model, input, names, {{indices, chosen.flip(-1)}});
  EXPECT_TRUE(at::equal(other.at(indices), chosen));
  EXPECT_LT(bridge::distance(other.at(weights), plain.at(weights).flip(-1)), 1e-12);
}

INSTANTIATE_TEST_SUITE_P(OfHooks, Mutants, ::testing::ValuesIn(kCases),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace bezel::verify

at::Tensor fire(Run* run, SiteRow at, at::Tensor value) {
  const auto& now = bezel::verify::mutant();
  if (now.defect != nullptr && now.stands_at(at)) return now.defect(*run, at, value);
  return real_fire(run, at, std::move(value));
}
