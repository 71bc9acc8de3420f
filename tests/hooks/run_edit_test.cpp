// Edits of a run: what a hook function gets, and what becomes of its answer.
#include <c10/core/GradMode.h>

#include <stdexcept>

#include "bezel/hooks/error.h"
#include "tests/hooks/toy_run.h"

namespace bezel::hooks {
namespace {

constexpr const char* kZ = "blocks.1.attn.hook_z";

at::Tensor edited(HookFunction function, const at::Tensor& value, const char* name = kZ) {
  ToyRun run({.edits = {edit(name, std::move(function))}});
  return run.fire(name, value);
}

TEST(RunEdit, AReturnedTensorReplacesTheValue) {
  const auto value = toy_value(kZ);
  const auto got = edited([](const at::Tensor& z, const HookSite&) { return z * 2; }, value);
  EXPECT_TRUE(at::equal(got, value * 2));
}

TEST(RunEdit, NothingReturnedKeepsTheValue) {
  const auto value = toy_value(kZ);
  const auto got = edited([](const at::Tensor&, const HookSite&) { return at::Tensor(); }, value);
  EXPECT_TRUE(at::equal(got, value));
}

TEST(RunEdit, AnInPlaceEditCountsWhetherTheTensorIsReturnedOrNot) {
  const auto value = toy_value(kZ);
  const auto zeroed = value.index_fill(2, at::full({1}, 1, at::kLong), 0.0);
  for (const bool returns : {false, true}) {
    const auto got = edited(
        [&](const at::Tensor& z, const HookSite&) {
          z.select(2, 1).zero_();
          return returns ? z : at::Tensor();
        },
        value);
    EXPECT_TRUE(at::equal(got, zeroed));
  }
}

TEST(RunEdit, AnInPlaceEditDoesNotReachTheTensorThatWasTapped) {
  const auto value = toy_value(kZ);
  const auto before = value.clone();
  edited([](const at::Tensor& z, const HookSite&) { return z.zero_(); }, value);
  EXPECT_TRUE(at::equal(value, before));
}

TEST(RunEdit, AnInPlaceEditOfARepeatedValueStaysInItsCopy) {
  const auto stream = at::randn({2, 5, 1, 8});
  const auto copies = stream.expand({2, 5, 4, 8});
  const auto got = edited(
      [](const at::Tensor& x, const HookSite&) { return x.select(2, 0).zero_(), at::Tensor(); },
      copies, "blocks.1.hook_q_input");
  EXPECT_EQ(got.select(2, 0).abs().sum().item<double>(), 0.0);
  EXPECT_TRUE(at::equal(got.select(2, 1), stream.squeeze(2)));
}

TEST(RunEdit, HooksRunInTheirOrderAndEachSeesThePreviousResult) {
  const auto plus = [](double x) {
    return [x](const at::Tensor& z, const HookSite&) { return z + x; };
  };
  const auto times = [](double x) {
    return [x](const at::Tensor& z, const HookSite&) { return z * x; };
  };
  const auto value = toy_value(kZ);
  ToyRun run(
      {.edits = {edit(kZ, plus(1)), edit("blocks.*.attn.hook_z", times(3)), edit(kZ, plus(2))}});
  EXPECT_TRUE(at::allclose(run.fire(kZ, value), (value + 1) * 3 + 2));
}

TEST(RunEdit, AFunctionIsToldNameLayerRowDirectionStepAndPositions) {
  bool called = false;
  edited(
      [&](const at::Tensor&, const HookSite& at) {
        called = true;
        EXPECT_EQ(at.name, kZ);
        EXPECT_EQ(at.layer, 1);
        EXPECT_EQ(at.point.name, "attn.hook_z");
        EXPECT_EQ(at.direction, Direction::kForward);
        EXPECT_EQ(at.step, 3);
        EXPECT_EQ(at.positions.sizes(), (at::IntArrayRef{2, 5}));
        EXPECT_EQ(at.key_positions.max().item<int>(), 14);
        return at::Tensor();
      },
      toy_value(kZ));
  EXPECT_TRUE(called);
  const auto no_layer = [](const at::Tensor&, const HookSite& at) {
    EXPECT_EQ(at.layer, std::nullopt);
    return at::Tensor();
  };
  edited(no_layer, toy_value("hook_embed"), "hook_embed");
}

TEST(RunEdit, AWrongShapeIsRefusedNamingHookLayerGotAndWant) {
  const auto message = message_of<HookResultError>([] {
    edited([](const at::Tensor& z, const HookSite&) { return z.narrow(1, 0, 4); }, toy_value(kZ));
  });
  expect_says(message, {"\"blocks.1.attn.hook_z\"", "[2, 4, 4, 2]", "[2, 5, 4, 2]"});
}

TEST(RunEdit, ATensorResizedInPlaceIsRefused) {
  EXPECT_THROW(
      edited([](const at::Tensor& z, const HookSite&) { return z.resize_({1}), at::Tensor(); },
             toy_value(kZ)),
      HookResultError);
}

TEST(RunEdit, ADtypeThatCannotBeCastIsRefusedAndOthersAreCast) {
  const auto message = message_of<HookResultError>([] {
    edited([](const at::Tensor& t, const HookSite&) { return t.to(at::kFloat); },
           toy_value("hook_tokens"), "hook_tokens");
  });
  expect_says(message, {"\"hook_tokens\"", "Float", "Long"});
  for (const auto type : {at::kDouble, at::kBFloat16, at::kLong}) {
    const auto got =
        edited([&](const at::Tensor& z, const HookSite&) { return z.to(type); }, toy_value(kZ));
    EXPECT_EQ(got.scalar_type(), at::kFloat);
  }
}

TEST(RunEdit, AnExceptionOfAHookPassesUnchanged) {
  struct Mine : std::runtime_error {
    using std::runtime_error::runtime_error;
    int code = 7;
  };
  try {
    edited([](const at::Tensor&, const HookSite&) -> at::Tensor { throw Mine("mine"); },
           toy_value(kZ));
    FAIL() << "nothing was thrown";
  } catch (const Mine& error) {
    EXPECT_STREQ(error.what(), "mine");
    EXPECT_EQ(error.code, 7);
  }
}

TEST(RunEdit, AFailedHookLeavesNothingInTheCache) {
  ToyRun run(
      {.names = {kZ}, .edits = {edit(kZ, [](const at::Tensor&, const HookSite&) -> at::Tensor {
                        throw std::runtime_error("mine");
                      })}});
  EXPECT_THROW(run.fire(kZ, toy_value(kZ)), std::runtime_error);
  EXPECT_EQ(run.cache().size(), 0u);
}

TEST(RunEdit, WhatAHookKeepsOrReturnsIsNotWhatTheRunGoesOnWith) {
  at::Tensor kept;
  const auto value = toy_value(kZ);
  const auto keep = [&](const at::Tensor& z, const HookSite&) {
    kept = z;
    return at::Tensor();
  };
  const auto got = edited(keep, value);
  kept.zero_();
  EXPECT_TRUE(at::equal(got, value));
  const auto mine = toy_value(kZ);
  const auto before = mine.clone();
  const auto patched = edited([&](const at::Tensor&, const HookSite&) { return mine; }, value);
  mine.zero_();
  EXPECT_TRUE(at::equal(patched, before));
  const auto view =
      edited([&](const at::Tensor&, const HookSite&) { return mine.view_as(mine); }, value);
  mine.fill_(1);
  EXPECT_EQ(view.abs().sum().item<double>(), 0.0);
}

}  // namespace
}  // namespace bezel::hooks
