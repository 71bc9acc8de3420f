// Gradients at names, against finite differences; what a graph holds when nobody asks.
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/function.h>

#include <set>

#include "bezel/hooks/error.h"
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

using hooks::HookSite;

class Gradients : public TinyTest {
 protected:
  at::Tensor loss_of(const at::Tensor& logits) const { return (logits * direction_).sum(); }
  std::shared_ptr<hooks::ActivationCache> differentiated(const hooks::Request& request) const {
    const auto result = run(request);
    loss_of(result.output).backward();
    return result.cache;
  }
  at::Tensor direction_ = [] {
    at::manual_seed(5);
    return at::randn({2, 9, kVocab}, at::kDouble);
  }();
};

TEST_P(Gradients, OfEveryNameInEveryLayerAgreeWithFiniteDifferences) {
  const auto default_cache = differentiated({.names = {"*"}, .gradients = true});
  const double step = 1e-6;
  for (const hooks::SiteRow at : model_.inventory().rows()) {
    if (at.point().type == hooks::ValueType::kInt64) continue;
    const bool on_demand = at.point().access == hooks::Access::kOnDemand;
    const auto cache =
        on_demand ? differentiated({.names = {name(at)}, .gradients = true}) : default_cache;
    ASSERT_TRUE(cache->contains(name(at) + "_grad")) << name(at);
    const auto gradient = cache->at(name(at) + "_grad"), value = cache->at(name(at));
    ASSERT_EQ(gradient.sizes(), value.sizes()) << name(at);
    const auto moves = at::randn_like(value);
    const auto loss_at = [&](double distance) {
      const auto move = [&](const at::Tensor& x, const HookSite&) { return x + moves * distance; };
      return loss_of(run({.edits = {hooks::edit(name(at), move)}}).output).item<double>();
    };
    const double slope = (loss_at(step) - loss_at(-step)) / (2 * step);
    const double wanted = (gradient * moves).sum().item<double>();
    EXPECT_NEAR(slope, wanted, 1e-5 * std::max(1.0, std::abs(wanted))) << name(at);
  }
}

TEST_P(Gradients, OfTheDefaultCacheComeOnTheAutomaticPathToo) {
  const auto result = model_.run_with_cache(tokens_, {.names = {"*"}, .gradients = true});
  EXPECT_TRUE(result.output.requires_grad());
  loss_of(result.output).backward();
  for (const hooks::SiteRow at : model_.inventory().rows()) {
    if (at.point().type == hooks::ValueType::kInt64 ||
        at.point().access == hooks::Access::kOnDemand)
      continue;
    EXPECT_TRUE(result.cache->contains(name(at) + "_grad")) << name(at);
  }
}

TEST_P(Gradients, ABackwardHooksReplacementFlowsUpstream) {
  const auto zero = [](const at::Tensor& g, const HookSite&) { return at::zeros_like(g); };
  const hooks::Edit cut{"blocks.1.hook_resid_pre", zero, hooks::Direction::kBackward};
  const auto result = run({.names = {"blocks.0.hook_resid_pre", "blocks.1.hook_resid_post"},
                           .edits = {cut},
                           .gradients = true});
  loss_of(result.output).backward();
  EXPECT_GT(result.cache->at("blocks.1.hook_resid_post_grad").abs().max().item<double>(), 0.0);
  // Per-layer inputs and shared keys run beside the stream, and feed block 0's stream no gradient.
  EXPECT_EQ(result.cache->at("blocks.0.hook_resid_pre_grad").abs().max().item<double>(), 0.0);
}

TEST_P(Gradients, FrozenWeightsStayFrozenAndAPlainRunHasNoGraph) {
  const auto result = run({.names = {"*"}, .gradients = true});
  loss_of(result.output).backward();
  Weights weights = model_.weights();
  for (const WeightSlot& slot : weight_slots(model_.spec(), weights)) {
    EXPECT_FALSE(slot.tensor->requires_grad() || slot.tensor->grad().defined()) << slot.name;
  }
  EXPECT_FALSE(run({.names = {"*"}}).output.requires_grad());
}

TEST_P(Gradients, TrainableWeightsGetThemAllWithAndWithoutHooks) {
  Weights weights = tiny_weights(model_.spec(), at::kDouble);
  const auto slots = weight_slots(model_.spec(), weights);
  for (const WeightSlot& slot : slots) slot.tensor->requires_grad_(true);
  const Bridge model(model_.spec(), weights);
  loss_of(model(tokens_)).backward();
  std::vector<at::Tensor> plain;
  for (const WeightSlot& slot : slots) {
    ASSERT_TRUE(slot.tensor->grad().defined()) << slot.name;
    plain.push_back(slot.tensor->grad().clone());
    slot.tensor->mutable_grad().zero_();
  }
  loss_of(model.run_with_cache(tokens_, {.names = {"*"}, .gradients = true}).output).backward();
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const double size = plain[i].abs().max().item<double>();
    EXPECT_LE(distance(slots[i].tensor->grad(), plain[i]), 1e-11 * std::max(1.0, size))
        << slots[i].name;
  }
}

TEST_P(Gradients, AskedForWithoutAutogradAreRefused) {
  const at::NoGradGuard off;
  EXPECT_THROW(run({.names = {"hook_embed"}, .gradients = true}), ArgumentError);
  EXPECT_NO_THROW(run({.names = {"hook_embed"}}));
}

std::multiset<std::string> nodes_of(const at::Tensor& output) {
  std::multiset<std::string> names;
  std::set<torch::autograd::Node*> seen;
  std::vector<torch::autograd::Node*> open = {output.grad_fn().get()};
  while (!open.empty()) {
    auto* node = open.back();
    open.pop_back();
    if (node == nullptr || !seen.insert(node).second) continue;
    names.insert(node->name());
    for (const auto& edge : node->next_edges()) open.push_back(edge.function.get());
  }
  return names;
}

TEST_P(Gradients, DeadAndRecordingTapsAddNoNodeToTheGraph) {
  const auto leaf = run({.names = {"hook_embed"}}).cache->at("hook_embed").requires_grad_(true);
  const Input input{.tokens = tokens_, .embeddings = leaf};
  const auto plain = nodes_of(run({}, input).output);
  EXPECT_GT(plain.size(), 100u);
  EXPECT_EQ(plain.count("AliasBackward0"), 0u);
  EXPECT_EQ(nodes_of(run({.names = {"*"}}, input).output), plain);
  const auto watched =
      nodes_of(run({.names = {"blocks.0.attn.hook_z"}, .gradients = true}, input).output);
  EXPECT_EQ(watched.size(), plain.size() + 1);  // that the comparison can fail
}

INSTANTIATE_TEST_SUITE_P(Tiny, Gradients, ::testing::ValuesIn(kVariants));

}  // namespace
}  // namespace bezel::bridge
