// Gradients of a run: recorded, seen and replaced in the caller's later backward().
#include "bezel/hooks/error.h"
#include "tests/hooks/toy_run.h"

namespace bezel::hooks {
namespace {

constexpr const char* kZ = "blocks.1.attn.hook_z";

at::Tensor leaf() { return toy_value(kZ, at::kDouble).requires_grad_(true); }

Edit backward(HookFunction function, const char* name = kZ) {
  return {name, std::move(function), Direction::kBackward};
}

TEST(RunGradient, TheGradientOfARecordedValueIsKeptBesideIt) {
  ToyRun run({.names = {kZ}, .gradients = true});
  const auto x = leaf();
  const auto z = run.fire(kZ, x * 3);
  EXPECT_FALSE(run.cache().contains(std::string(kZ) + "_grad"));
  z.pow(2).sum().backward();
  EXPECT_TRUE(at::allclose(run.cached(std::string(kZ) + "_grad"), x.detach() * 6));
  EXPECT_TRUE(at::allclose(x.grad(), x.detach() * 18));
}

TEST(RunGradient, WithoutTheWishNoGradientIsKept) {
  ToyRun run({.names = {kZ}});
  run.fire(kZ, leaf() * 3).sum().backward();
  EXPECT_EQ(run.cache().size(), 1u);
}

TEST(RunGradient, OtherUsesOfTheSameTensorStayOutOfIt) {
  ToyRun run({.names = {kZ}, .gradients = true});
  const auto x = leaf();
  const auto stream = x * 1;
  (run.fire(kZ, stream) * 2 + stream * 5).sum().backward();
  EXPECT_TRUE(at::equal(run.cached(std::string(kZ) + "_grad"), at::full_like(x, 2)));
  EXPECT_TRUE(at::equal(x.grad(), at::full_like(x, 7)));
}

TEST(RunGradient, BackwardHooksReplaceTheGradientInTheirOrderAndTheReplacementFlowsOn) {
  const auto plus_one = [](const at::Tensor& g, const HookSite& at) {
    EXPECT_EQ(at.direction, Direction::kBackward);
    EXPECT_EQ(at.name, kZ);
    EXPECT_EQ(at.layer, 1);
    EXPECT_EQ(at.step, 3);
    EXPECT_EQ(at.positions.size(1), 5);
    return g + 1;
  };
  const auto times_ten = [](const at::Tensor& g, const HookSite&) {
    return g.mul_(10), at::Tensor();
  };
  ToyRun run(
      {.names = {kZ}, .edits = {backward(plus_one), backward(times_ten)}, .gradients = true});
  const auto x = leaf();
  (run.fire(kZ, x * 3) * 2).sum().backward();
  EXPECT_TRUE(at::equal(run.cached(std::string(kZ) + "_grad"), at::full_like(x, 30)));
  EXPECT_TRUE(at::equal(x.grad(), at::full_like(x, 90)));
}

TEST(RunGradient, ABackwardHookThatReturnsNothingChangesNothing) {
  ToyRun run(
      {.edits = {backward([](const at::Tensor&, const HookSite&) { return at::Tensor(); })}});
  const auto x = leaf();
  (run.fire(kZ, x * 3) * 2).sum().backward();
  EXPECT_TRUE(at::equal(x.grad(), at::full_like(x, 6)));
  EXPECT_EQ(run.cache().size(), 0u);
}

TEST(RunGradient, AWrongGradientIsRefusedAndAnExceptionPassesUnchanged) {
  ToyRun wrong({.edits = {backward([](const at::Tensor& g, const HookSite&) { return g.sum(); })}});
  const auto loss = wrong.fire(kZ, leaf() * 1).sum();
  expect_says(message_of<HookResultError>([&] { loss.backward(); }), {kZ, "[2, 5, 4, 2]"});
  ToyRun failing({.edits = {backward([](const at::Tensor&, const HookSite&) -> at::Tensor {
                    throw std::out_of_range("mine");
                  })}});
  const auto other = failing.fire(kZ, leaf() * 1).sum();
  EXPECT_EQ(message_of<std::out_of_range>([&] { other.backward(); }), "mine");
}

TEST(RunGradient, TheGradientIsThatOfTheEditedValue) {
  const auto detach = [](const at::Tensor& z, const HookSite&) { return z.detach() * 2; };
  ToyRun run({.names = {kZ}, .edits = {edit(kZ, detach)}, .gradients = true});
  const auto x = leaf();
  run.fire(kZ, x * 3).pow(2).sum().backward();
  EXPECT_TRUE(at::allclose(run.cached(std::string(kZ) + "_grad"), x.detach() * 12));
  EXPECT_FALSE(x.grad().defined());
}

TEST(RunGradient, AValueThatNothingFeedsWithGradientsBecomesALeafOfItsOwn) {
  ToyRun run({.names = {kZ}, .gradients = true});
  const auto value = toy_value(kZ);
  run.fire(kZ, value).pow(2).sum().backward();
  EXPECT_TRUE(at::allclose(run.cached(std::string(kZ) + "_grad"), value * 2));
  EXPECT_FALSE(value.requires_grad());
}

TEST(RunGradient, GradientsTakeTheSliceAndDtypeOfTheirValuesAndThePlannedBytes) {
  ToyRun run({.names = {kZ},
              .gradients = true,
              .pos_slice = PosSlice{.start = -2, .stop = {}},
              .dtype = at::kBFloat16});
  const auto x = toy_value(kZ).requires_grad_(true);
  run.fire(kZ, x * 1).pow(2).sum().backward();
  const auto gradient = run.cached(std::string(kZ) + "_grad");
  EXPECT_TRUE(at::equal(gradient, (x.detach() * 2).slice(1, 3, 5).to(at::kBFloat16)));
  EXPECT_EQ(run.cache_bytes(), run.plan().cache_bytes());
}

TEST(RunGradient, AKeptGradientIsApartFromTheLeafsOwn) {
  const auto twice = [](const at::Tensor& g, const HookSite&) { return g * 2; };
  for (const std::vector<Edit>& edits : {std::vector<Edit>{}, {backward(twice)}}) {
    ToyRun run({.names = {kZ}, .edits = edits, .gradients = true});
    const auto x = leaf();
    run.fire(kZ, x).sum().backward();
    x.mutable_grad().zero_();
    const double wanted = edits.empty() ? 1 : 2;
    EXPECT_TRUE(at::equal(run.cached(std::string(kZ) + "_grad"), at::full_like(x, wanted)));
  }
}

TEST(RunGradient, WritingIntoTheCacheDoesNotDisturbBackward) {
  for (const auto& value : {toy_value(kZ), leaf() * 1}) {
    ToyRun run({.names = {kZ}, .gradients = true});
    const auto loss = run.fire(kZ, value).pow(2).sum();
    const auto wanted = value.detach() * 2;
    run.cached(kZ).zero_();
    loss.backward();
    EXPECT_TRUE(at::allclose(run.cached(std::string(kZ) + "_grad"), wanted));
  }
}

TEST(RunGradient, BackwardWorksWhenTheRunAndItsModelAreGone) {
  at::Tensor loss;
  std::shared_ptr<ActivationCache> cache;
  {
    auto inventory = std::make_shared<Inventory>(toy_inventory());
    const Request request{.names = {kZ}, .gradients = true};
    hooks::Run run(Plan::compile(request, inventory, toy_shape()), at::zeros({2, 5}),
                   at::zeros({2, 5}));
    loss = run.fire(inventory->resolve(kZ), leaf() * 1).sum();
    cache = run.cache();
  }
  loss.backward();
  EXPECT_TRUE(cache->contains("blocks.1.attn.hook_z_grad"));
}

}  // namespace
}  // namespace bezel::hooks
