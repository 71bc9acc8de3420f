// The names of a model from its spec: which layers have what, and why not.
#include "bezel/bridge/inventory.h"

#include "bezel/hooks/error.h"
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

std::string reason(const ModelSpec& spec, const std::string& name) {
  const auto inventory = make_inventory(spec);
  try {
    inventory.resolve(name);
  } catch (const HookNotApplicableError& error) {
    return error.what();
  }
  return "it is there";
}

void expect_reason(const ModelSpec& spec, const std::string& name, const std::string& part) {
  EXPECT_NE(reason(spec, name).find(part), std::string::npos) << reason(spec, name);
}

TEST(ModelInventory, ASharingLayersKeysAreRefusedWithTheirDonor) {
  expect_reason(sharing_spec(), "blocks.5.attn.hook_k", "they come from block 2");
  expect_reason(sharing_spec(), "blocks.6.attn.hook_v_normed", "they come from block 3");
  expect_reason(sharing_spec(), "blocks.4.hook_v_input", "attn.hook_shared_k");
  EXPECT_EQ(reason(sharing_spec(), "blocks.5.attn.hook_shared_k"), "it is there");
  EXPECT_EQ(reason(sharing_spec(), "blocks.5.hook_q_input"), "it is there");
}

TEST(ModelInventory, ALayerThatOwnsItsKeysHasNoSharedOnes) {
  expect_reason(sharing_spec(), "blocks.2.attn.hook_shared_k", "its own keys");
}

TEST(ModelInventory, ExpertsAreInTheLayersThatHaveThem) {
  expect_reason(experts_spec(), "blocks.0.moe.hook_out", "block 0 has a dense feed-forward");
  EXPECT_EQ(reason(experts_spec(), "blocks.1.moe.hook_out"), "it is there");
  expect_reason(sharing_spec(), "blocks.0.ln2_moe.hook_scale", "no experts");
}

TEST(ModelInventory, PerLayerEmbeddingsAreInModelsThatHaveThem) {
  expect_reason(experts_spec(), "ple.hook_inputs", "no per-layer embeddings");
  expect_reason(experts_spec(), "blocks.1.hook_ple_out", "no per-layer embeddings");
  EXPECT_EQ(reason(sharing_spec(), "blocks.6.ple.hook_gate"), "it is there");
}

TEST(ModelInventory, SizesAreThoseOfTheLayer) {
  const auto inventory = make_inventory(sharing_spec());
  const auto shape = [&](const std::string& name) {
    const auto at = inventory.resolve(name);
    return hooks::shape_of(at.point(), inventory.site(at.site), {});
  };
  using Shape = std::vector<std::int64_t>;
  EXPECT_EQ(shape("blocks.0.attn.hook_k"), (Shape{0, 0, 2, 8}));
  EXPECT_EQ(shape("blocks.3.attn.hook_k"), (Shape{0, 0, 1, 16}));
  EXPECT_EQ(shape("blocks.6.attn.hook_z"), (Shape{0, 0, 4, 16}));
  EXPECT_EQ(shape("blocks.3.mlp.hook_pre"), (Shape{0, 0, 10}));
  EXPECT_EQ(shape("blocks.4.mlp.hook_pre"), (Shape{0, 0, 20}));
  EXPECT_EQ(shape("ple.hook_inputs"), (Shape{0, 0, 7, 3}));
  EXPECT_EQ(shape("hook_logits"), (Shape{0, 0, kVocab}));
}

TEST(ModelInventory, RowsOfARunComeInTheOrderOfTheInventory) {
  for (const Variant& variant : kVariants) {
    const Bridge model = tiny_bridge(variant.spec());
    std::vector<hooks::Selector> names;
    for (const auto at : model.inventory().rows()) names.emplace_back(model.inventory().name(at));
    const auto items =
        model.run({.tokens = tiny_tokens(1, 3)}, {.names = names}, {.path = Path::kOpen})
            .cache->items();
    ASSERT_EQ(items.size(), names.size());
    for (std::size_t i = 0; i < items.size(); ++i) {
      EXPECT_EQ(items[i].first, model.inventory().name(model.inventory().rows()[i]));
    }
  }
}

}  // namespace
}  // namespace bezel::bridge
