#include "bezel/hooks/plan_shelf.h"

#include "bezel/hooks/error.h"
#include "tests/hooks/toy.h"

namespace bezel::hooks {
namespace {

constexpr const char* kZ = "blocks.1.attn.hook_z";

TEST(PlanShelf, EqualRequestsShareOnePlan) {
  PlanShelf shelf;
  const auto plan = [&](const Request& request) {
    return shelf.plan(request, shared_toy(), toy_shape());
  };
  const Request request{.names = {"*", kZ}, .pos_slice = PosSlice{0, 2}};
  EXPECT_EQ(plan(request), plan(request));
}

TEST(PlanShelf, ARequestThatDiffersAnywhereGetsAPlanOfItsOwn) {
  PlanShelf shelf;
  auto longer = toy_shape();
  set_size(longer.input, Axis::kPos, 6);
  const auto first = shelf.plan({.names = {kZ}}, shared_toy(), toy_shape());
  const std::vector<Request> others = {
      {.names = {"blocks.0.attn.hook_z"}},   {.names = {kZ, "hook_embed"}},
      {.names = {kZ}, .gradients = true},    {.names = {kZ}, .pos_slice = PosSlice{0, 2}},
      {.names = {kZ}, .dtype = at::kDouble}, {.names = {kZ}, .device = at::Device(at::kCPU)}};
  for (const Request& other : others) {
    ASSERT_EQ(shelf.plan({.names = {kZ}}, shared_toy(), toy_shape())->recorded()->size(), 1u);
    const auto kept = shelf.plan({.names = {kZ}}, shared_toy(), toy_shape());
    EXPECT_NE(shelf.plan(other, shared_toy(), toy_shape()), kept);
  }
  EXPECT_NE(shelf.plan({.names = {kZ}}, shared_toy(), longer),
            shelf.plan({.names = {kZ}}, shared_toy(), toy_shape()));
}

TEST(PlanShelf, ARequestWithAFunctionIsCompiledEachTime) {
  PlanShelf shelf;
  const auto keep = [](const at::Tensor&, const HookSite&) { return at::Tensor(); };
  const NamePredicate every = [](const std::string&) { return true; };
  for (const Request& request : {Request{.edits = {edit(kZ, keep)}}, Request{.names = {every}}}) {
    EXPECT_NE(shelf.plan(request, shared_toy(), toy_shape()),
              shelf.plan(request, shared_toy(), toy_shape()));
  }
}

TEST(PlanShelf, ARefusalLeavesTheKeptPlanAsItIs) {
  PlanShelf shelf;
  const auto kept = shelf.plan({.names = {kZ}}, shared_toy(), toy_shape());
  EXPECT_THROW(shelf.plan({.names = {"blocks.1.attn.hook_zz"}}, shared_toy(), toy_shape()),
               UnknownHookError);
  EXPECT_EQ(shelf.plan({.names = {kZ}}, shared_toy(), toy_shape()), kept);
}

}  // namespace
}  // namespace bezel::hooks
