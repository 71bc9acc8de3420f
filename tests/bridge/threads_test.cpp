// Runs from several threads on one Bridge do not see each other.
#include <atomic>
#include <thread>

#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

using hooks::HookSite;

class Threads : public TinyTest {};

// What one caller does: edits of its own at names of its own, on tokens of its own.
hooks::Request request_of(int caller) {
  const auto change = [caller](const at::Tensor& x, const HookSite&) {
    x.select(1, caller + 1).mul_(2 + caller);
    return caller % 2 == 0 ? at::Tensor() : x;
  };
  return {.names = {caller % 2 == 0 ? "*" : "blocks.*.attn.hook_pattern"},
          .edits = {hooks::edit("blocks." + std::to_string(caller) + ".hook_resid_mid", change)}};
}

struct Seen {
  at::Tensor output;
  std::vector<std::pair<std::string, at::Tensor>> items;
};

bool same(const Seen& a, const Seen& b) {
  if (!at::equal(a.output, b.output) || a.items.size() != b.items.size()) return false;
  for (std::size_t i = 0; i < a.items.size(); ++i) {
    if (a.items[i].first != b.items[i].first || !at::equal(a.items[i].second, b.items[i].second))
      return false;
  }
  return true;
}

TEST_P(Threads, WithDifferentHooksOnOneBridgeGetTheResultsOfSerialRunsBitForBit) {
  const std::vector<at::Tensor> tokens = {tokens_, tiny_tokens(2, 10), tiny_tokens(2, 11)};
  const auto serve = [&](int caller) {
    const auto result = model_.run({.tokens = tokens[caller]}, request_of(caller));
    return Seen{result.output, result.cache->items()};
  };
  constexpr int kCallers = 3, kRounds = 20;
  std::vector<Seen> serial;
  for (int caller = 0; caller < kCallers; ++caller) serial.push_back(serve(caller));
  for (int i = 1; i < kCallers; ++i) EXPECT_FALSE(same(serial[0], serial[i]));
  std::atomic<int> n_different = 0;
  std::vector<std::thread> threads;
  for (int caller = 0; caller < kCallers; ++caller) {
    threads.emplace_back([&, caller] {
      at::set_num_threads(1);
      for (int round = 0; round < kRounds; ++round) {
        if (!same(serve(caller), serial[caller])) ++n_different;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(n_different, 0);
}

TEST_P(Threads, ARunInsideAHookLeavesTheOuterRunAlone) {
  const auto plain = run({}).output;
  const auto keep = [&](const at::Tensor&, const HookSite&) {
    const auto zero = [](const at::Tensor& x, const HookSite&) { return at::zeros_like(x); };
    run({.names = {"*"}, .edits = {hooks::edit("blocks.*.hook_attn_out", zero)}});
    return at::Tensor();
  };
  EXPECT_TRUE(
      at::equal(run({.edits = {hooks::edit("blocks.1.hook_resid_pre", keep)}}).output, plain));
}

TEST_P(Threads, AFailedRunLeavesNothingBehind) {
  const auto plain = run({}).output;
  const auto fail = [](const at::Tensor&, const HookSite&) -> at::Tensor {
    throw std::out_of_range("mine");
  };
  EXPECT_THROW(run({.names = {"*"}, .edits = {hooks::edit("blocks.1.hook_resid_pre", fail)}}),
               std::out_of_range);
  EXPECT_TRUE(at::equal(run({}).output, plain));
}

INSTANTIATE_TEST_SUITE_P(Tiny, Threads, ::testing::ValuesIn(kVariants));

}  // namespace
}  // namespace bezel::bridge
