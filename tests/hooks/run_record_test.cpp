// What a run keeps of the values that were asked for.
#include <c10/core/GradMode.h>

#include "tests/hooks/toy_run.h"

namespace bezel::hooks {
namespace {

constexpr const char* kZ = "blocks.1.attn.hook_z";
constexpr const char* kPattern = "blocks.1.attn.hook_pattern";

TEST(RunRecord, ARecordedValueIsTheValueAfterAllEdits) {
  const auto value = toy_value(kZ);
  const auto twice = [](const at::Tensor& z, const HookSite&) { return z * 2; };
  ToyRun run({.names = {kZ}, .edits = {edit(kZ, twice), edit(kZ, twice)}});
  const auto got = run.fire(kZ, value);
  EXPECT_TRUE(at::equal(run.cached(kZ), value * 4));
  EXPECT_TRUE(at::equal(got, value * 4));
}

TEST(RunRecord, RecordingHandsTheValueOnAsItIs) {
  ToyRun run({.names = {"*"}});
  const auto value = toy_value(kZ);
  EXPECT_TRUE(run.fire(kZ, value).is_same(value));
}

TEST(RunRecord, OnlyWhatIsNamedIsKept) {
  ToyRun run({.names = {kZ}});
  for (const char* name : {kZ, kPattern, "hook_embed"}) run.fire(name, toy_value(name));
  EXPECT_EQ(run.cache().size(), 1u);
}

TEST(RunRecord, AValueThatHoldsMoreMemoryThanItShowsIsCopiedCompactly) {
  const auto columns = at::randn({2, 5, 4, 6}).narrow(-1, 2, 2),
             rows = at::randn({3, 5, 4, 2}).narrow(0, 1, 2);
  for (const at::Tensor& part : {columns, rows}) {
    ToyRun run({.names = {kZ}});
    run.fire(kZ, part);
    const auto got = run.cached(kZ);
    EXPECT_TRUE(at::equal(got, part));
    EXPECT_TRUE(got.is_contiguous());
    EXPECT_EQ(got.storage().nbytes(), got.nbytes());
  }
}

constexpr const char* kGate = "blocks.1.mlp.hook_pre";
constexpr const char* kUp = "blocks.1.mlp.hook_pre_linear";

// Both halves of one tensor pass; true when the cache took the tensor itself.
bool shares_joint_tensor(const Request& request) {
  ToyRun run(request);
  const auto joint = at::randn({2, 5, 12});
  const auto gate = joint.narrow(-1, 0, 6), up = joint.narrow(-1, 6, 6);
  run.fire(kGate, gate);
  run.fire(kUp, up);
  return run.cache().contains(kGate) && run.cached(kGate).is_alias_of(joint);
}

TEST(RunRecord, PartsOfOneTensorAreCopiedUnlessAllOfThemAreKeptAsTheyAre) {
  const auto same = [](const at::Tensor& z, const HookSite&) { return z; };
  EXPECT_TRUE(shares_joint_tensor({.names = {"*"}}));
  EXPECT_TRUE(shares_joint_tensor({.names = {kGate, kUp}}));
  EXPECT_FALSE(shares_joint_tensor({.names = {kGate}}));
  EXPECT_FALSE(shares_joint_tensor({.names = {"*"}, .edits = {edit(kUp, same)}}));
  EXPECT_FALSE(
      shares_joint_tensor({.names = {"*"}, .edits = {edit("blocks.1.hook_q_input", same)}}));
  EXPECT_FALSE(shares_joint_tensor({.names = {"*"}, .gradients = true}));
  EXPECT_FALSE(shares_joint_tensor({.names = {"*"}, .pos_slice = PosSlice{0, 2}}));
  EXPECT_FALSE(shares_joint_tensor({.names = {"*"}, .dtype = at::kDouble}));
}

TEST(RunRecord, ACachedValueIsDetachedAndApartFromTheGraph) {
  ToyRun run({.names = {kZ}});
  const auto value = toy_value(kZ).requires_grad_(true) * 1;
  run.fire(kZ, value);
  EXPECT_FALSE(run.cached(kZ).requires_grad());
  EXPECT_FALSE(run.cached(kZ).is_alias_of(value));
}

TEST(RunRecord, TokenIdsAreCopiedBecauseTheyAreTheCallers) {
  ToyRun run({.names = {"hook_tokens"}});
  const auto tokens = toy_value("hook_tokens");
  run.fire("hook_tokens", tokens);
  EXPECT_FALSE(run.cached("hook_tokens").is_alias_of(tokens));
}

TEST(RunRecord, ATensorThatAHookReturnedOrKeptDoesNotChangeTheCacheLater) {
  at::Tensor mine = toy_value(kZ), kept;
  const auto before = mine.clone();
  ToyRun run({.names = {kZ},
              .edits = {edit(kZ, [&](const at::Tensor&, const HookSite&) { return mine; }),
                        edit(kZ, [&](const at::Tensor& z, const HookSite&) {
                          kept = z;
                          return at::Tensor();
                        })}});
  run.fire(kZ, toy_value(kZ));
  mine.zero_();
  kept.zero_();
  EXPECT_TRUE(at::equal(run.cached(kZ), before));
}

TEST(RunRecord, AnotherDtypeIsTakenByFloatsAndNotByIntegers) {
  ToyRun run({.names = {kZ, "hook_tokens"}, .dtype = at::kBFloat16});
  const auto value = toy_value(kZ);
  run.fire("hook_tokens", toy_value("hook_tokens"));
  run.fire(kZ, value);
  EXPECT_TRUE(at::equal(run.cached(kZ), value.to(at::kBFloat16)));
  EXPECT_EQ(run.cached("hook_tokens").scalar_type(), at::kLong);
}

TEST(RunRecord, APositionSliceCutsPosAndQueryAxesAndNeverKeyAxes) {
  ToyRun run({.names = {"*"}, .pos_slice = PosSlice{.start = 1, .stop = {}, .step = 2}});
  const char* shared = "blocks.2.attn.hook_shared_k";
  const auto z = toy_value(kZ), pattern = toy_value(kPattern), keys = toy_value(shared);
  EXPECT_TRUE(run.fire(kZ, z).is_same(z));
  run.fire(kPattern, pattern);
  run.fire(shared, keys);
  EXPECT_TRUE(at::equal(run.cached(kZ), z.slice(1, 1, 5, 2)));
  EXPECT_TRUE(at::equal(run.cached(kPattern), pattern.slice(2, 1, 5, 2)));
  EXPECT_TRUE(at::equal(run.cached(shared), keys));
  EXPECT_EQ(run.cached(kZ).storage().nbytes(), run.cached(kZ).nbytes());
}

TEST(RunRecord, ViewsOfOneTensorUnderTwoNamesGetACopyEach) {
  ToyRun run({.names = {"blocks.1.hook_resid_mid", "blocks.1.mlp.hook_out"}});
  const auto value = toy_value("blocks.1.hook_resid_mid");
  run.fire("blocks.1.hook_resid_mid", value);
  run.fire("blocks.1.mlp.hook_out", value.view_as(value));
  EXPECT_EQ(run.cache_bytes(), run.plan().cache_bytes());
}

TEST(RunRecord, TwoNamesOfOneValueShareOneCopy) {
  for (const Request& request : {Request{}, Request{.pos_slice = PosSlice{.start = -2, .stop = {}}},
                                 Request{.dtype = at::kDouble}}) {
    Request both = request;
    both.names = {"blocks.0.hook_resid_post", "blocks.1.hook_resid_pre", "blocks.1.hook_attn_in"};
    ToyRun run(both);
    const auto stream = toy_value("blocks.0.hook_resid_post").requires_grad_(true);
    for (const auto& name :
         {"blocks.0.hook_resid_post", "blocks.1.hook_resid_pre", "blocks.1.hook_attn_in"}) {
      run.fire(name, stream);
      EXPECT_TRUE(run.cached(name).is_alias_of(run.cached("blocks.0.hook_resid_post"))) << name;
    }
    EXPECT_EQ(run.cache_bytes(), run.plan().cache_bytes());
  }
}

TEST(RunRecord, AnEditBetweenTwoNamesOfOneValueSetsThemApart) {
  const char *post = "blocks.0.hook_resid_post", *pre = "blocks.1.hook_resid_pre",
             *in = "blocks.1.hook_attn_in";
  const auto twice = [](const at::Tensor& x, const HookSite&) { return x * 2; };
  ToyRun run({.names = {post, pre, in}, .edits = {edit(pre, twice)}});
  const auto stream = toy_value(post);
  run.fire(in, run.fire(pre, run.fire(post, stream)));
  EXPECT_TRUE(at::equal(run.cached(post), stream));
  EXPECT_TRUE(at::equal(run.cached(pre), stream * 2));
  EXPECT_TRUE(at::equal(run.cached(in), stream * 2));
  EXPECT_TRUE(run.cached(in).is_alias_of(run.cached(pre)));
  EXPECT_EQ(run.cache_bytes(), run.plan().cache_bytes());
}

TEST(RunRecord, ThePlanSaysWhichNamesShareACopyAndCountsItOnce) {
  ToyRun run({.names = {"blocks.*.hook_resid_post", "blocks.*.hook_resid_pre"}});
  std::map<std::string, std::string> shares;
  for (const auto& value : run.plan().values()) shares[value.name] = value.shares_with;
  EXPECT_EQ(shares.at("blocks.0.hook_resid_pre"), "");
  EXPECT_EQ(shares.at("blocks.1.hook_resid_pre"), "blocks.0.hook_resid_post");
  EXPECT_EQ(shares.at("blocks.2.hook_resid_post"), "");
  EXPECT_EQ(run.plan().cache_bytes(), 4 * (2 * 5 * 8 * 4));
}

TEST(RunRecord, TheCacheTakesExactlyThePlannedBytes) {
  for (const Request& request :
       {Request{}, Request{.pos_slice = PosSlice{.start = 1, .stop = 4}},
        Request{.dtype = at::kBFloat16},
        Request{.pos_slice = PosSlice{.start = -1, .stop = {}}, .dtype = at::kDouble}}) {
    Request all = request;
    all.names = {"*", "blocks.*.attn.hook_result", "blocks.*.moe.hook_expert_out"};
    ToyRun run(all);
    std::map<std::string, at::Tensor> made;
    for (const SiteRow at : toy().rows()) {
      const std::string& name = toy().name(at);
      const auto& from = toy().site(at.site).handed_on;
      const auto source = from.find(at.row);
      made[name] = source == from.end() ? toy_value(name) : made[toy().name(source->second)];
      run.fire(name, made[name]);
    }
    EXPECT_EQ(run.cache_bytes(), run.plan().cache_bytes());
  }
}

}  // namespace
}  // namespace bezel::hooks
