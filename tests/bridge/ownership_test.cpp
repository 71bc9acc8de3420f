// Whose memory is whose: the caller's tensors, the cache, the output and the model stay apart.
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

class Ownership : public TinyTest {
 protected:
  static std::vector<at::Tensor> copies(const hooks::ActivationCache& cache) {
    std::vector<at::Tensor> all;
    for (const auto& [name, value] : cache.items()) all.push_back(value.clone());
    return all;
  }
  static void expect_unchanged(const hooks::ActivationCache& cache,
                               const std::vector<at::Tensor>& before) {
    const auto items = cache.items();
    for (std::size_t i = 0; i < items.size(); ++i) {
      EXPECT_TRUE(at::equal(items[i].second, before[i])) << items[i].first;
    }
  }
};

TEST_P(Ownership, WritingIntoTheOutputChangesNoCachedValue) {
  for (const Input& input :
       {Input{.tokens = tokens_}, Input{.tokens = tokens_, .stop_at_layer = 2}}) {
    const auto result = model_.run(input, {.names = {"*"}});
    const auto before = copies(*result.cache);
    result.output.zero_();
    expect_unchanged(*result.cache, before);
  }
}

TEST_P(Ownership, WritingIntoTheCallersInputsChangesNoCachedValue) {
  const auto first = run({.names = {"*"}});
  Input input{.tokens = tokens_.clone(),
              .embeddings = first.cache->at("blocks.2.hook_resid_pre").clone(),
              .start_at_layer = 2};
  for (const auto& [name, value] : first.cache->items()) input.start_state[name] = value.clone();
  const auto result = run({.names = {"*"}}, input);
  const auto before = copies(*result.cache);
  input.tokens.zero_();
  input.embeddings.zero_();
  for (auto& [name, value] : input.start_state) value.zero_();
  expect_unchanged(*result.cache, before);
}

TEST_P(Ownership, WritingIntoOneCachedValueChangesItsOtherNamesAndNoOthers) {
  const auto result = run({.names = {"*"}});
  const auto plan = model_.plan({.tokens = tokens_}, {.names = {"*"}});
  std::map<std::string, std::string> owner;
  for (const auto& value : plan->values())
    owner[value.name] = value.shares_with.empty() ? value.name : value.shares_with;
  const auto items = result.cache->items();
  for (const auto& [written, target] : items) {
    const auto before = copies(*result.cache);
    target.fill_(target.flatten()[0].item<double>() == 7 ? 8 : 7);
    for (std::size_t i = 0; i < items.size(); ++i) {
      const auto& [name, value] = items[i];
      const bool changed = !at::equal(value, before[i]);
      if (owner[name] != owner[written]) {
        EXPECT_FALSE(changed) << name << " by " << written;
      }
      // Slices of one value are apart from each other.
      const bool same = value.sizes() == target.sizes() && !name.ends_with("ple.hook_input");
      if (owner[name] == owner[written] && same) {
        EXPECT_TRUE(changed) << name << " by " << written;
      }
    }
  }
}

TEST_P(Ownership, ACachedValueIsNoneOfTheModelsWeights) {
  const auto result = run({.names = {"*"}});
  Weights weights = model_.weights();
  for (const auto& [name, value] : result.cache->items()) {
    for (const WeightSlot& slot : weight_slots(model_.spec(), weights)) {
      EXPECT_FALSE(value.is_alias_of(*slot.tensor)) << name << " " << slot.name;
    }
  }
}

TEST_P(Ownership, ACacheOutlivesItsModel) {
  auto model = std::make_unique<Bridge>(tiny_bridge(GetParam().spec()));
  const auto result = model->run_with_cache(tokens_, {.names = {"*"}, .gradients = true});
  const auto wanted = run({}).output;
  model.reset();
  EXPECT_LE(distance(result.cache->at("hook_logits"), wanted), 1e-12);
  result.output.sum().backward();
  EXPECT_TRUE(result.cache->contains("hook_embed_grad"));
}

INSTANTIATE_TEST_SUITE_P(Tiny, Ownership, ::testing::ValuesIn(kVariants));

}  // namespace
}  // namespace bezel::bridge
