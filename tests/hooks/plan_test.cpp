#include "bezel/hooks/plan.h"

#include <map>

#include "bezel/hooks/error.h"
#include "tests/hooks/toy.h"

namespace bezel::hooks {
namespace {

std::shared_ptr<const Plan> planned(const Request& request, const RunShape& shape = toy_shape()) {
  return Plan::compile(request, shared_toy(), shape);
}

at::Tensor keep(const at::Tensor&, const HookSite&) { return {}; }

std::map<std::string, std::vector<std::int64_t>> shapes(const Plan& plan) {
  std::map<std::string, std::vector<std::int64_t>> all;
  for (const PlannedValue& value : plan.values()) all[value.name] = value.shape;
  return all;
}

TEST(Plan, AnUnknownNameIsRefusedWithTheThreeNearestAlikeForNamesAndEdits) {
  const std::string near = toy().near_misses("blocks.0.atn.hook_z");
  expect_says(near, {"\"blocks.0.attn.hook_z\""});
  expect_says(message_of<UnknownHookError>([] { planned({.names = {"blocks.0.atn.hook_z"}}); }),
              {near});
  expect_says(
      message_of<UnknownHookError>([] { planned({.edits = {edit("blocks.0.atn.hook_z", keep)}}); }),
      {near});
}

TEST(Plan, AnInapplicableNameIsRefusedWithTheReasonAlikeForNamesAndEdits) {
  const std::string reason = "its keys come from block 0";
  expect_says(
      message_of<HookNotApplicableError>([] { planned({.names = {"blocks.2.attn.hook_k"}}); }),
      {reason});
  expect_says(message_of<HookNotApplicableError>(
                  [] { planned({.edits = {edit("blocks.2.attn.hook_k", keep)}}); }),
              {reason});
}

TEST(Plan, OneBadNameAmongGoodOnesIsRefused) {
  EXPECT_THROW(planned({.names = {"hook_logits", "hook_logit"}}), UnknownHookError);
}

TEST(Plan, ANameOutsideTheBlocksThatRunIsRefusedAsNeverFiring) {
  RunShape shape = toy_shape();
  shape.first_layer = 1;
  shape.stop_layer = 2;
  const auto refusal = [&](const Request& request) {
    return message_of<HookNeverFiredError>([&] { planned(request, shape); });
  };
  expect_says(refusal({.names = {"blocks.2.hook_resid_pre"}}),
              {"\"blocks.2.hook_resid_pre\"", "blocks 1 to 1", "stop_at_layer"});
  refusal({.names = {"blocks.0.hook_resid_pre"}});
  refusal({.edits = {edit("blocks.2.hook_resid_pre", keep)}});
  refusal({.names = {"blocks.*.attn.hook_shared_k"}});  // in block 2 alone
}

TEST(Plan, AGlobChoosesAmongTheBlocksThatRun) {
  RunShape shape = toy_shape();
  shape.stop_layer = 2;
  const auto plan = planned({.names = {"blocks.*.hook_resid_post"}}, shape);
  EXPECT_EQ(plan->values().size(), 2u);
}

TEST(Plan, AModelValueThatThisRunDoesNotComputeIsRefusedAsNeverFiring) {
  RunShape shape = toy_shape();
  shape.silent_model_rows.set(HookId("hook_logits").row());
  EXPECT_THROW(planned({.names = {"hook_logits"}}, shape), HookNeverFiredError);
  EXPECT_NO_THROW(planned({.names = {"hook_unembed"}}, shape));
}

TEST(Plan, TheLastLayerIsThatOfTheDeepestNameOrEdit) {
  EXPECT_EQ(planned({})->last_layer(), -1);
  EXPECT_EQ(planned({.names = {"hook_embed"}})->last_layer(), -1);
  EXPECT_EQ(planned({.names = {"blocks.1.hook_resid_pre", "blocks.0.attn.hook_z"}})->last_layer(),
            1);
  EXPECT_EQ(planned({.names = {"hook_embed"}, .edits = {edit("blocks.2.attn.hook_z", keep)}})
                ->last_layer(),
            2);
}

TEST(Plan, TheHeadIsNeededForItsOwnRowsOnly) {
  for (const char* name : {"ln_final.hook_scale", "hook_unembed", "hook_logits"}) {
    EXPECT_TRUE(planned({.names = {name}})->needs_head()) << name;
  }
  for (const char* name : {"hook_tokens", "hook_full_embed", "blocks.2.hook_resid_post"}) {
    EXPECT_FALSE(planned({.names = {name}})->needs_head()) << name;
  }
}

TEST(Plan, OnlyWhatIsAskedForIsLive) {
  const auto plan =
      planned({.names = {"blocks.0.attn.hook_z"}, .edits = {edit("blocks.1.attn.hook_q", keep)}});
  const auto z = HookId("attn.hook_z").row(), q = HookId("attn.hook_q").row();
  EXPECT_EQ(plan->site(0).live.count(), 0u);
  EXPECT_EQ(plan->site(1).live, RowSet().set(z));
  EXPECT_EQ(plan->site(1).record, RowSet().set(z));
  EXPECT_EQ(plan->site(2).live, RowSet().set(q));
  EXPECT_EQ(plan->site(2).edit, RowSet().set(q));
  EXPECT_EQ(plan->site(3).live.count(), 0u);
  EXPECT_FALSE(plan->watches_gradients());
}

TEST(Plan, GradientsAreWatchedWhereFloatsAreRecordedAndWhereBackwardHooksStand) {
  const auto all = planned({.names = {"*"}, .gradients = true});
  EXPECT_TRUE(all->watches_gradients());
  EXPECT_FALSE(all->site(0).watch[HookId("hook_tokens").row()]);
  EXPECT_TRUE(all->site(0).watch[HookId("hook_embed").row()]);
  EXPECT_FALSE(all->site(2).watch[HookId("moe.hook_expert_indices").row()]);
  const auto back = planned({.edits = {{"blocks.0.attn.hook_z", keep, Direction::kBackward}}});
  EXPECT_TRUE(back->watches_gradients());
  EXPECT_TRUE(back->site(1).watch[HookId("attn.hook_z").row()]);
  EXPECT_FALSE(back->site(1).edit[HookId("attn.hook_z").row()]);
}

TEST(Plan, ABackwardHookOnIntegersIsRefused) {
  for (const char* name : {"hook_tokens", "blocks.1.moe.hook_expert_indices"}) {
    EXPECT_THROW(planned({.edits = {{name, keep, Direction::kBackward}}}), HookNotApplicableError);
  }
}

TEST(Plan, ABackwardHookForAGlobSkipsIntegers) {
  const auto plan = planned({.edits = {{"*", keep, Direction::kBackward}}});
  EXPECT_FALSE(plan->site(0).watch[HookId("hook_tokens").row()]);
  EXPECT_TRUE(plan->site(0).watch[HookId("hook_embed").row()]);
  EXPECT_THROW(planned({.edits = {{"*hook_expert_indices", keep, Direction::kBackward}}}),
               HookNotApplicableError);
}

TEST(Plan, FunctionsOfAValueKeepTheirOrderAndDirection) {
  std::string calls;
  const auto note = [&](char which) {
    return [&calls, which](const at::Tensor&, const HookSite&) {
      calls += which;
      return at::Tensor();
    };
  };
  const auto plan = planned({.edits = {edit("blocks.0.attn.hook_z", note('a')),
                                       edit("blocks.*.attn.hook_z", note('b')),
                                       {"blocks.0.attn.hook_z", note('x'), Direction::kBackward},
                                       edit("blocks.0.attn.hook_q", note('y')),
                                       edit("blocks.0.attn.hook_z", note('c'))}});
  const SiteRow z = toy().resolve("blocks.0.attn.hook_z");
  const at::Tensor none;
  const HookSite site{"", 0, z.point(), Direction::kForward, 0, none, none};
  for (const auto& function : plan->functions(z, Direction::kForward)) function(none, site);
  EXPECT_EQ(calls, "abc");
  EXPECT_EQ(plan->functions(z, Direction::kBackward).size(), 1u);
  EXPECT_TRUE(plan->functions(toy().resolve("hook_logits"), Direction::kForward).empty());
}

TEST(Plan, ShapesAreThoseOfTheInputWithSlicedPositionsAndKeptLogits) {
  using Shape = std::vector<std::int64_t>;
  RunShape shape = toy_shape();
  shape.n_logits = 4;
  const auto all =
      shapes(*planned({.names = {"*"}, .pos_slice = PosSlice{.start = -2, .stop = {}}}, shape));
  EXPECT_EQ(all.at("hook_tokens"), (Shape{2, 2}));
  EXPECT_EQ(all.at("blocks.0.attn.hook_pattern"), (Shape{2, 4, 2, 5}));   // q_pos, never k_pos
  EXPECT_EQ(all.at("blocks.2.attn.hook_shared_k"), (Shape{2, 5, 2, 2}));  // k_pos
  EXPECT_EQ(all.at("hook_logits"), (Shape{2, 2, 11}));
  EXPECT_EQ(shapes(*planned({.names = {"hook_logits"}}, shape)).at("hook_logits"),
            (Shape{2, 4, 11}));
}

TEST(Plan, DtypesAreThoseOfTheModelOrAsAskedForAndIntegersStay) {
  const auto type_of = [](const char* name, const Request& extra, at::ScalarType model) {
    Request request = extra;
    request.names = {name};
    RunShape shape = toy_shape();
    shape.dtype = model;
    return planned(request, shape)->values().at(0).dtype;
  };
  EXPECT_EQ(type_of("blocks.0.attn.hook_z", {}, at::kBFloat16), at::kBFloat16);
  EXPECT_EQ(type_of("blocks.0.ln1.hook_scale", {}, at::kBFloat16), at::kFloat);
  EXPECT_EQ(type_of("blocks.0.ln1.hook_scale", {}, at::kDouble), at::kDouble);
  EXPECT_EQ(type_of("hook_tokens", {}, at::kBFloat16), at::kLong);
  EXPECT_EQ(type_of("blocks.0.ln1.hook_scale", {.dtype = at::kBFloat16}, at::kFloat),
            at::kBFloat16);
  EXPECT_EQ(type_of("hook_tokens", {.dtype = at::kBFloat16}, at::kFloat), at::kLong);
}

TEST(Plan, BytesAreElementsTimesTheirSizeAndTwiceWithGradients) {
  EXPECT_EQ(planned({.names = {"blocks.0.attn.hook_pattern"}})->cache_bytes(), 2 * 4 * 5 * 5 * 4);
  EXPECT_EQ(planned({.names = {"hook_tokens"}})->cache_bytes(), 2 * 5 * 8);
  EXPECT_EQ(planned({.names = {"hook_embed"}, .dtype = at::kBFloat16})->cache_bytes(),
            2 * 5 * 8 * 2);
  EXPECT_EQ(planned({.names = {"hook_tokens", "hook_embed"}, .gradients = true})->cache_bytes(),
            2 * 5 * 8 + 2 * (2 * 5 * 8 * 4));
  EXPECT_EQ(planned({.edits = {edit("hook_embed", keep)}})->cache_bytes(), 0);
}

TEST(Plan, ANameAskedForTwiceIsKeptOnce) {
  const auto plan = planned({.names = {"hook_embed", "hook_e*", "hook_embed"}});
  EXPECT_EQ(plan->values().size(), 1u);
  EXPECT_EQ(plan->cache_bytes(), 2 * 5 * 8 * 4);
}

TEST(Plan, ACacheThatDoesNotFitIsRefusedWithItsLargestValueAndCheaperChoices) {
  const auto plan = planned({.names = {"hook_tokens", "blocks.0.attn.hook_pattern"}});
  EXPECT_NO_THROW(plan->check_fits(plan->cache_bytes()));
  const auto message =
      message_of<CacheTooLargeError>([&] { plan->check_fits(plan->cache_bytes() - 1); });
  expect_says(message, {"2 values", "\"blocks.0.attn.hook_pattern\"", "names_filter", "pos_slice",
                        "dtype", "device"});
}

TEST(Plan, ARefusalGivesTheBytesInGibibytes) {
  RunShape shape = toy_shape();
  set_size(shape.input, Axis::kBatch, 1 << 20);
  set_size(shape.input, Axis::kPos, 160);  // 2^20 * 160 * 8 floats = 5 GiB
  const auto plan = planned({.names = {"hook_embed"}}, shape);
  expect_says(message_of<CacheTooLargeError>([&] { plan->check_fits(std::int64_t{3} << 29); }),
              {"5.00 GiB", "1.50 GiB"});
}

}  // namespace
}  // namespace bezel::hooks
