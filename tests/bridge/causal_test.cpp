// Every name is causal: an edit changes what is computed from it, an identity edit changes nothing.
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

using hooks::HookSite;
using hooks::SiteRow;

bool is_split_input(SiteRow at) {
  const auto name = at.point().name;
  return name == "hook_q_input" || name == "hook_k_input" || name == "hook_v_input";
}

at::Tensor keep(const at::Tensor&, const HookSite&) { return {}; }

class Causal : public TinyTest {
 protected:
  // Noise, or other integers of the same range.
  at::Tensor changed(const at::Tensor& value, const HookSite& site) const {
    if (value.is_floating_point()) return value + at::randn_like(value) * 0.3;
    const auto& moe = model_.spec().layers[site.layer.value_or(0)].moe;
    return (value + 1).remainder(site.layer ? moe->n_experts : model_.spec().d_vocab);
  }
};

TEST_P(Causal, ARandomEditOfEveryNameInEveryLayerChangesTheLogits) {
  const auto before = run({}).output;
  for (const SiteRow at : model_.inventory().rows()) {
    const auto noise = [&](const at::Tensor& value, const HookSite& site) {
      return changed(value, site);
    };
    const auto after = run({.edits = {hooks::edit(name(at), noise)}}).output;
    EXPECT_GT(distance(after, before), 1e-9) << name(at);
    EXPECT_TRUE(at::isfinite(after).all().item<bool>()) << name(at);
  }
}

TEST_P(Causal, ARandomEditAlsoReachesTheLogitsOnTheAutomaticPath) {
  const auto before = model_(tokens_);
  for (const SiteRow at : model_.inventory().rows()) {
    const auto noise = [&](const at::Tensor& value, const HookSite& site) {
      return changed(value, site);
    };
    const auto after =
        model_.run({.tokens = tokens_}, {.edits = {hooks::edit(name(at), noise)}}).output;
    EXPECT_GT(distance(after, before), 1e-9) << name(at);
  }
}

TEST_P(Causal, AnIdentityEditChangesNothingBitForBitOnTheOpenPath) {
  const auto plain = run({}).output;
  for (const SiteRow at : model_.inventory().rows()) {
    const auto after = run({.edits = {hooks::edit(name(at), keep)}}).output;
    if (is_split_input(at)) {  // projects head by head, each copy with a norm of its own
      EXPECT_LE(distance(after, plain), 1e-13) << name(at);
    } else {
      EXPECT_TRUE(at::equal(after, plain)) << name(at);
    }
  }
}

TEST_P(Causal, IdentityEditsEverywhereChangeNothingBitForBitInAnyDtype) {
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const Bridge model = tiny_bridge(GetParam().spec(), type);
    const auto logits = [&](const hooks::Request& request) {
      return model.run({.tokens = tokens_}, request, {.path = Path::kOpen}).output;
    };
    std::vector<hooks::Edit> all;
    for (const SiteRow at : model.inventory().rows()) {
      if (!is_split_input(at)) all.push_back(hooks::edit(name(at), keep));
    }
    EXPECT_TRUE(at::equal(logits({.edits = all}), logits({}))) << type;
  }
}

TEST_P(Causal, RecordingChangesNothingBitForBitOnTheOpenPath) {
  const auto plain = run({}).output;
  for (const SiteRow at : model_.inventory().rows()) {
    EXPECT_TRUE(at::equal(run({.names = {name(at)}}).output, plain)) << name(at);
  }
  EXPECT_TRUE(at::equal(run({.names = every_name()}).output, plain));
}

TEST_P(Causal, AnEditMayReturnAnExpandedView) {
  for (const SiteRow at : model_.inventory().rows()) {
    const auto first_row = [](const at::Tensor& x, const HookSite&) {
      return x.narrow(0, 0, 1).expand_as(x);
    };
    const auto copied = [&](const at::Tensor& x, const HookSite& site) {
      return first_row(x, site).contiguous();
    };
    for (const Path path : {Path::kOpen, Path::kAutomatic}) {
      const auto logits = [&](const hooks::HookFunction& function) {
        return model_
            .run({.tokens = tokens_},
                 {.names = {name(at)}, .edits = {hooks::edit(name(at), function)}}, {.path = path})
            .output;
      };
      EXPECT_LE(distance(logits(first_row), logits(copied)), 1e-13) << name(at);
    }
  }
}

// The float32 model in float64 arithmetic.
Bridge in_float64(const ModelSpec& spec) {
  Weights weights = tiny_weights(spec, at::kFloat);
  for (const WeightSlot& slot : weight_slots(spec, weights)) {
    *slot.tensor = slot.tensor->to(at::kDouble);
  }
  if (spec.tied_head) weights.unembed = weights.embed;
  return {spec, std::move(weights)};
}

TEST_P(Causal, TheOpenAndTheAutomaticPathDifferByRoundingAlone) {
  EXPECT_LE(distance(model_(tokens_), run({}).output), 1e-13);
  const Bridge model = tiny_bridge(GetParam().spec(), at::kFloat);
  const auto open = model.run({.tokens = tokens_}, {}, {.path = Path::kOpen}).output;
  // The model is steep, and libraries round differently from processor to processor.
  const auto exact = in_float64(GetParam().spec())(tokens_);
  const double gate = 5e-5 * std::max(1.0, open.abs().max().item<double>());
  EXPECT_LE(distance(model(tokens_), exact), std::max(gate, 3 * distance(open, exact)));
}

TEST_P(Causal, AnEditOfOneRowOfTheBatchLeavesTheOtherAlone) {
  const auto before = run({}).output;
  for (const SiteRow at : model_.inventory().rows()) {
    const auto first_row = [&](const at::Tensor& value, const HookSite& site) {
      auto edited = value.clone();
      edited[0].copy_(changed(value, site)[0]);
      return edited;
    };
    // Experts of both rows share a matrix product, whose blocks may round differently.
    const auto after = run({.edits = {hooks::edit(name(at), first_row)}}).output;
    EXPECT_LE(distance(after[1], before[1]), 1e-13) << name(at);
  }
}

TEST_P(Causal, AnEditAtAPositionLeavesEarlierPositionsAlone) {
  const auto before = run({}).output;
  for (const SiteRow at : model_.inventory().rows()) {
    const auto& axes = at.point().axes;
    const auto later = [&](const at::Tensor& value, const HookSite& site) {
      auto edited = value.clone();
      for (std::size_t i = 0; i < axes.size(); ++i) {
        const bool place = axes[i] == hooks::Axis::kPos || axes[i] == hooks::Axis::kQPos;
        if (place)
          edited.narrow(static_cast<int>(i), 6, 3)
              .copy_(changed(value, site).narrow(static_cast<int>(i), 6, 3));
      }
      return edited;
    };
    const auto after = run({.edits = {hooks::edit(name(at), later)}}).output;
    EXPECT_LE(distance(after.narrow(1, 0, 6), before.narrow(1, 0, 6)), 1e-13) << name(at);
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, Causal, ::testing::ValuesIn(kVariants));

}  // namespace
}  // namespace bezel::bridge
