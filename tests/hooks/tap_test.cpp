#include "bezel/hooks/tap.h"

#include "tests/hooks/toy_run.h"

namespace bezel::hooks {
namespace {

constexpr int kBlock1 = 2;  // site 0 is the model

TEST(Tap, IsTwoWords) { EXPECT_LE(sizeof(Tap), 2 * sizeof(void*)); }

TEST(Tap, ADeadTapHandsOnTheSameTensorAndAddsNothingToTheGraph) {
  ToyRun run({.names = {"blocks.1.attn.hook_q", "blocks.0.attn.hook_z"}});
  const auto value = toy_value("blocks.1.attn.hook_z").requires_grad_(true) * 2;
  const auto node = value.grad_fn();
  for (const Tap tap : {Tap(), Tap(run.run(), kBlock1)}) {
    const auto got = tap("attn.hook_z", value);
    EXPECT_TRUE(got.is_same(value));
    EXPECT_EQ(got.grad_fn(), node);
  }
  EXPECT_EQ(run.cache().size(), 0u);
}

TEST(Tap, ARecordingTapAddsNothingToTheGraphEither) {
  ToyRun run({.names = {"blocks.1.attn.hook_z"}});
  const auto value = toy_value("blocks.1.attn.hook_z").requires_grad_(true) * 2;
  const auto got = Tap(run.run(), kBlock1)("attn.hook_z", value);
  EXPECT_TRUE(got.is_same(value));
  EXPECT_EQ(run.cache().size(), 1u);
}

TEST(Tap, FiresAtItsOwnSiteAlone) {
  ToyRun run({.names = {"blocks.1.attn.hook_z"}});
  const auto value = toy_value("blocks.1.attn.hook_z");
  Tap(run.run(), kBlock1 - 1)("attn.hook_z", value);
  EXPECT_EQ(run.cache().size(), 0u);
  Tap(run.run(), kBlock1)("attn.hook_z", value);
  EXPECT_TRUE(run.cache().contains("blocks.1.attn.hook_z"));
}

TEST(Tap, SaysWhatIsLiveAndWhatIsEdited) {
  const auto keep = [](const at::Tensor&, const HookSite&) { return at::Tensor(); };
  ToyRun run({.names = {"blocks.1.attn.hook_z"}, .edits = {edit("blocks.1.attn.hook_q", keep)}});
  const Tap tap(run.run(), kBlock1);
  EXPECT_TRUE(tap.live("attn.hook_z"));
  EXPECT_TRUE(tap.live("attn.hook_q"));
  EXPECT_FALSE(tap.live("attn.hook_pattern"));
  EXPECT_TRUE(tap.any_live({"attn.hook_pattern", "attn.hook_z"}));
  EXPECT_FALSE(tap.any_live({"attn.hook_pattern", "attn.hook_attn_scores"}));
  EXPECT_TRUE(tap.any_edits({"attn.hook_z", "attn.hook_q"}));
  EXPECT_FALSE(tap.any_edits({"attn.hook_z"}));  // recorded only
  EXPECT_TRUE(tap.any_changes({"attn.hook_z", "attn.hook_q"}));
  EXPECT_FALSE(tap.any_changes({"attn.hook_z"}));
  ToyRun watching({.names = {"blocks.1.attn.hook_z"}, .gradients = true});
  EXPECT_TRUE(Tap(watching.run(), kBlock1).any_changes({"attn.hook_z"}));
  EXPECT_FALSE(Tap(watching.run(), kBlock1).any_edits({"attn.hook_z"}));
  EXPECT_FALSE(Tap().any_changes({"attn.hook_z"}));
  EXPECT_FALSE(Tap().live("attn.hook_z"));
  EXPECT_FALSE(Tap().any_live({"attn.hook_z"}));
  EXPECT_FALSE(Tap().any_edits({"attn.hook_z"}));
}

}  // namespace
}  // namespace bezel::hooks
