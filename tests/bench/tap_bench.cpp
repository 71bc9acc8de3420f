// What a tap costs: without a run, in a run that did not ask for it, and live.
//
// Nanoseconds for one tap of a one-element tensor, so that no arithmetic hides it. The first row is
// the same loop without a tap.
#include <ATen/ATen.h>
#include <benchmark/benchmark.h>

#include <memory>

#include "bezel/hooks/tap.h"

namespace {

using namespace bezel::hooks;

Inventory one_block() {
  std::vector<Site> sites(2);
  sites[1].prefix = "blocks.0.";
  sites[1].layer = 0;
  return Inventory(std::move(sites));
}

const std::shared_ptr<const Inventory>& inventory() {
  static const auto inventory = std::make_shared<const Inventory>(one_block());
  return inventory;
}

Run run_of(const Request& request) {
  RunShape shape;
  shape.stop_layer = 1;
  return {Plan::compile(request, inventory(), shape), at::Tensor(), at::Tensor()};
}

at::Tensor keep(const at::Tensor&, const HookSite&) { return {}; }

template <class Through>
void pass(benchmark::State& state, const Through& through) {
  at::Tensor value = at::zeros({1});
  for (auto _ : state) {
    value = through(std::move(value));
    benchmark::DoNotOptimize(value.unsafeGetTensorImpl());
  }
}

// Kept from being inlined, as a value that a model function makes is.
[[gnu::noinline]] at::Tensor born(at::Tensor value) { return value; }

void no_tap(benchmark::State& state) {
  pass(state, [](at::Tensor value) { return born(std::move(value)); });
}

void tap_of(benchmark::State& state, const Tap& tap) {
  pass(state, [&](at::Tensor value) { return tap("attn.hook_z", born(std::move(value))); });
}

void tap_without_a_run(benchmark::State& state) { tap_of(state, Tap()); }

void dead_tap(benchmark::State& state) {
  Run run = run_of({.names = {"blocks.0.attn.hook_pattern"}});
  tap_of(state, Tap(run, 1));
}

void recording_tap(benchmark::State& state) {
  Run run = run_of({.names = {"blocks.0.attn.hook_z"}});
  tap_of(state, Tap(run, 1));
}

void identity_edit(benchmark::State& state) {
  Run run = run_of({.edits = {edit("blocks.0.attn.hook_z", keep)}});
  tap_of(state, Tap(run, 1));
}

// The copy that an edit is given: most of what an identity edit costs.
void copy_alone(benchmark::State& state) {
  pass(state, [](const at::Tensor& value) { return value.clone(); });
}

BENCHMARK(no_tap);
BENCHMARK(tap_without_a_run);
BENCHMARK(dead_tap);
BENCHMARK(recording_tap);
BENCHMARK(identity_edit);
BENCHMARK(copy_alone);

}  // namespace
