#include "bezel/hooks/inventory.h"

#include <algorithm>
#include <set>

#include "bezel/hooks/error.h"
#include "tests/hooks/toy.h"

namespace bezel::hooks {
namespace {

std::set<std::string> rows_of_block(const Inventory& inventory, int block) {
  std::set<std::string> names;
  for (const SiteRow at : inventory.rows()) {
    if (at.site == block + 1) names.insert(std::string(at.point().name));
  }
  return names;
}

TEST(Inventory, RowsRunFromTheInputsThroughTheBlocksInOrderToTheHead) {
  const Inventory inventory = toy_inventory();
  const auto names = names_of(inventory, inventory.rows());
  const std::vector<std::string> first = {"hook_tokens", "hook_embed", "hook_full_embed",
                                          "blocks.0.hook_resid_pre"};
  const std::vector<std::string> last = {"blocks.2.hook_resid_post", "ln_final.hook_scale",
                                         "ln_final.hook_normalized", "hook_unembed", "hook_logits"};
  EXPECT_EQ(std::vector(names.begin(), names.begin() + 4), first);
  EXPECT_EQ(std::vector(names.end() - 5, names.end()), last);
  int block = 0;
  for (const SiteRow at : inventory.rows()) {
    if (at.site == 0) continue;
    EXPECT_GE(at.site, block);
    block = at.site;
  }
}

TEST(Inventory, WithinABlockRowsKeepTheOrderOfTheTable) {
  const Inventory inventory = toy_inventory();
  SiteRow before{-1, -1};
  for (const SiteRow at : inventory.rows()) {
    if (at.site == before.site) {
      EXPECT_LT(before.row, at.row);
    }
    before = at;
  }
}

TEST(Inventory, EachBlockHasTheRowsOfItsKindAndNoOthers) {
  const Inventory inventory = toy_inventory();
  const auto own_dense = rows_of_block(inventory, 0), own_moe = rows_of_block(inventory, 1),
             shared = rows_of_block(inventory, 2);
  for (const char* name :
       {"attn.hook_k", "attn.hook_rot_k", "attn.hook_v_normed", "hook_v_input"}) {
    EXPECT_TRUE(own_dense.contains(name) && own_moe.contains(name)) << name;
    EXPECT_FALSE(shared.contains(name)) << name;
  }
  EXPECT_TRUE(shared.contains("attn.hook_shared_k") && shared.contains("attn.hook_shared_v"));
  EXPECT_FALSE(own_dense.contains("attn.hook_shared_k"));
  EXPECT_TRUE(own_moe.contains("moe.hook_out") && own_moe.contains("ln2_moe.hook_scale"));
  EXPECT_FALSE(own_dense.contains("moe.hook_out") || shared.contains("ln2_dense_post.hook_scale"));
  EXPECT_FALSE(own_dense.contains("ple.hook_gate"));
}

TEST(Inventory, EveryRowResolvesByItsFullNameToItself) {
  const Inventory inventory = toy_inventory();
  for (const SiteRow at : inventory.rows()) EXPECT_EQ(inventory.resolve(inventory.name(at)), at);
  EXPECT_EQ(inventory.name(inventory.resolve("blocks.1.attn.hook_z")), "blocks.1.attn.hook_z");
}

TEST(Inventory, AnUnknownNameIsRefusedWithItsThreeNearest) {
  const Inventory inventory = toy_inventory();
  const auto message =
      message_of<UnknownHookError>([&] { inventory.resolve("blocks.1.attn.hook_zz"); });
  expect_says(message, {"\"blocks.1.attn.hook_zz\"", "\"blocks.1.attn.hook_z\"",
                        inventory.near_misses("blocks.1.attn.hook_zz")});
  const auto near = inventory.near_misses("blocks.1.attn.hook_zz");
  EXPECT_EQ(std::count(near.begin(), near.end(), '"'), 6) << near;
  EXPECT_EQ(near.find("\"blocks.1.attn.hook_z\""), 0u) << near;
}

TEST(Inventory, NearMissesAreNamesThatExist) {
  // Block 2 has no hook_rot_k of its own.
  EXPECT_EQ(
      toy_inventory().near_misses("blocks.2.attn.hook_rot_kk").find("blocks.2.attn.hook_rot_k"),
      std::string::npos);
}

TEST(Inventory, BlocksBeyondTheModelAndRowsWithoutTheirBlockAreUnknown) {
  const Inventory inventory = toy_inventory();
  for (const char* name : {"blocks.3.hook_resid_pre", "blocks.-1.hook_resid_pre", "attn.hook_z",
                           "blocks.01.hook_resid_pre", "blocks.0.hook_logits", ""}) {
    EXPECT_THROW(inventory.resolve(name), UnknownHookError) << name;
  }
}

TEST(Inventory, ANameThatTheLayerLacksIsRefusedWithTheReason) {
  const Inventory inventory = toy_inventory();
  const auto refusal = [&](const char* name) {
    return message_of<HookNotApplicableError>([&] { inventory.resolve(name); });
  };
  expect_says(refusal("blocks.2.attn.hook_k"),
              {"\"blocks.2.attn.hook_k\"", "its keys come from block 0"});
  expect_says(refusal("blocks.0.attn.hook_shared_v"), {"it owns its keys"});
  expect_says(refusal("blocks.0.moe.hook_out"), {"it is dense"});
  expect_says(refusal("blocks.1.hook_ple_out"), {"the toy has no PLE"});
  expect_says(refusal("ple.hook_inputs"), {"the toy has no PLE"});
}

TEST(Inventory, AShapeTakesTheModelsSizesAndFillsInTheInputs) {
  using Shape = std::vector<std::int64_t>;
  const Inventory inventory = toy_inventory();
  const AxisSizes input = toy_shape().input;
  const auto shape = [&](const char* name) {
    const SiteRow at = inventory.resolve(name);
    return shape_of(at.point(), inventory.site(at.site), input);
  };
  EXPECT_EQ(shape("hook_tokens"), (Shape{2, 5}));
  EXPECT_EQ(shape("blocks.0.ln1.hook_scale"), (Shape{2, 5, 1}));
  EXPECT_EQ(shape("blocks.0.attn.hook_k"), (Shape{2, 5, 2, 2}));
  EXPECT_EQ(shape("blocks.2.attn.hook_pattern"), (Shape{2, 4, 5, 5}));
  EXPECT_EQ(shape("blocks.1.moe.hook_expert_post"), (Shape{2, 5, 2, 3}));
  EXPECT_EQ(shape("hook_logits"), (Shape{2, 5, 11}));
}

}  // namespace
}  // namespace bezel::hooks
