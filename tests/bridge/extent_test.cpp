// Where a run begins and ends: start_at_layer, stop_at_layer, logits_to_keep, early stop.
#include "bezel/hooks/error.h"
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

using hooks::HookSite;

class Extents : public TinyTest {
 protected:
  void SetUp() override { whole_ = run({.names = {"*"}}); }
  int n_layers() const { return static_cast<int>(model_.spec().n_layers); }
  at::Tensor stream_before(int layer) const {
    return whole_.cache->at("blocks." + std::to_string(layer) + ".hook_resid_pre");
  }
  // Everything that a run from this layer could need.
  NamedTensors state() const {
    NamedTensors all;
    for (const auto& [name, value] : whole_.cache->items()) all[name] = value;
    all.erase("ple.hook_inputs");  // from the tokens
    return all;
  }
  Input from(int layer) const {
    return {.tokens = tokens_,
            .embeddings = stream_before(layer),
            .start_at_layer = layer,
            .start_state = state()};
  }
  // Blocks that a run computes: each asks first whether it should stop.
  int blocks_of(const Input& input, const hooks::Request& request, Output output) const {
    int n_blocks = 0;
    model_.run(input, request, {.output = output, .check_interrupt = [&] { ++n_blocks; }});
    return n_blocks;
  }
  RunResult whole_;
};

TEST_P(Extents, StoppingAtALayerGivesTheStreamThatEntersIt) {
  for (int layer = 0; layer < n_layers(); ++layer) {
    EXPECT_TRUE(at::equal(run({}, {.tokens = tokens_, .stop_at_layer = layer}).output,
                          stream_before(layer)));
  }
  EXPECT_TRUE(at::equal(run({}, {.tokens = tokens_, .stop_at_layer = -1}).output,
                        stream_before(n_layers() - 1)));
  EXPECT_TRUE(
      at::equal(run({}, {.tokens = tokens_, .stop_at_layer = n_layers()}).output, whole_.output));
}

TEST_P(Extents, StartingFromAnyLayerGivesTheLogitsOfTheWholeRun) {
  for (int layer = 1; layer < n_layers(); ++layer) {
    EXPECT_TRUE(at::equal(run({}, from(layer)).output, whole_.output)) << layer;
  }
  const auto last =
      whole_.cache->at("blocks." + std::to_string(n_layers() - 1) + ".hook_resid_post");
  const auto head = run({}, {.tokens = tokens_, .embeddings = last, .start_at_layer = n_layers()});
  EXPECT_TRUE(at::equal(head.output, whole_.output));
}

TEST_P(Extents, StartingAndStoppingInTheMiddleGivesTheStreamInBetween) {
  Input input = from(1);
  input.stop_at_layer = 3;
  EXPECT_TRUE(at::equal(run({}, input).output, stream_before(3)));
  input.stop_at_layer = 1;
  EXPECT_TRUE(at::equal(run({}, input).output, stream_before(1)));
}

TEST_P(Extents, NamesOutsideTheBlocksThatRunAreRefused) {
  Input input = from(1);
  input.stop_at_layer = 3;
  for (const char* name : {"blocks.0.hook_resid_pre", "blocks.3.hook_resid_pre", "hook_embed",
                           "hook_logits", "ln_final.hook_scale"}) {
    EXPECT_THROW(run({.names = {name}}, input), HookNeverFiredError) << name;
  }
  for (const char* name : {"blocks.1.hook_resid_pre", "blocks.2.hook_resid_post"}) {
    EXPECT_NO_THROW(run({.names = {name}}, input)) << name;
  }
}

TEST_P(Extents, ACacheOfAllNamesHoldsThoseThatThisRunComputes) {
  Input input = from(1);
  input.stop_at_layer = 3;
  for (const auto& [name, value] : run({.names = {"*"}}, input).cache->items()) {
    EXPECT_TRUE(name.starts_with("blocks.1.") || name.starts_with("blocks.2.") ||
                name.starts_with("ple.") || name == "hook_tokens")
        << name;
    EXPECT_TRUE(at::equal(value, whole_.cache->at(name))) << name;
  }
}

TEST_P(Extents, TheLastLogitsAreThoseOfTheWholeRun) {
  for (const std::int64_t n : {1, 4, 9}) {
    const auto got = run({.names = {"hook_logits", "hook_unembed", "ln_final.hook_scale"}},
                         {.tokens = tokens_, .logits_to_keep = n});
    EXPECT_LE(distance(got.output, whole_.output.narrow(1, 9 - n, n)), 1e-14);
    EXPECT_TRUE(at::equal(got.cache->at("hook_logits"), got.output));
    EXPECT_EQ(got.cache->at("hook_unembed").size(1), n);
    EXPECT_EQ(got.cache->at("ln_final.hook_scale").size(1), 9);
  }
}

TEST_P(Extents, ARunForItsHooksAloneStopsOnceTheyHaveFired) {
  const Input input{.tokens = tokens_};
  EXPECT_EQ(blocks_of(input, {.names = {"blocks.1.attn.hook_z"}}, Output::kNothing), 2);
  EXPECT_EQ(blocks_of(input, {.names = {"hook_embed"}}, Output::kNothing), 0);
  EXPECT_EQ(blocks_of(input, {.names = {"hook_logits"}}, Output::kNothing), n_layers());
  EXPECT_EQ(blocks_of(input, {.names = {"blocks.1.attn.hook_z"}}, Output::kLogits), n_layers());
  const auto nothing =
      model_.run(input, {.names = {"blocks.1.attn.hook_z"}}, {.output = Output::kNothing});
  EXPECT_FALSE(nothing.output.defined());
  EXPECT_TRUE(nothing.cache->contains("blocks.1.attn.hook_z"));
}

TEST_P(Extents, AnInterruptBetweenBlocksEndsTheRunWithItsOwnException) {
  int n_blocks = 0;
  const auto interrupt = [&] {
    if (++n_blocks == 3) throw std::out_of_range("interrupted");
  };
  EXPECT_THROW(model_.run({.tokens = tokens_}, {}, {.check_interrupt = interrupt}),
               std::out_of_range);
  EXPECT_EQ(n_blocks, 3);
}

TEST_P(Extents, ACacheThatCannotFitIsRefusedBeforeAnythingIsComputed) {
  const Input long_input{.tokens = at::zeros({1, 300'000}, at::kLong)};
  const hooks::Request patterns{.names = {"blocks.*.attn.hook_pattern"}};
  EXPECT_GT(model_.plan(long_input, patterns)->cache_bytes(), std::int64_t{10} << 40);
  EXPECT_THROW(blocks_of(long_input, patterns, Output::kNothing), CacheTooLargeError);
}

TEST_P(Extents, EmbeddingsStandForHookEmbed) {
  const auto embeddings = whole_.cache->at("hook_embed");
  EXPECT_TRUE(
      at::equal(run({}, {.tokens = tokens_, .embeddings = embeddings}).output, whole_.output));
  const auto twice = [](const at::Tensor& x, const HookSite&) { return x * 2; };
  const auto edited = run({.edits = {hooks::edit("hook_embed", twice)}}).output;
  EXPECT_TRUE(at::equal(run({}, {.tokens = tokens_, .embeddings = embeddings * 2}).output, edited));
}

INSTANTIATE_TEST_SUITE_P(Tiny, Extents, ::testing::ValuesIn(kVariants));

class StartState : public ::testing::Test {
 protected:
  std::string refusal(const Input& input) const {
    try {
      model_.run(input);
    } catch (const ArgumentError& error) {
      return error.what();
    }
    return "";
  }
  Bridge model_ = tiny_bridge(sharing_spec());
  at::Tensor tokens_ = tiny_tokens(2, 9);
  std::shared_ptr<hooks::ActivationCache> cache_ =
      model_.run_with_cache(tokens_, {.names = {"*"}}).cache;
  at::Tensor stream_ = cache_->at("blocks.4.hook_resid_pre");
};

TEST_F(StartState, WhatIsMissingIsNamed) {
  const Input bare{.tokens = tokens_, .embeddings = stream_, .start_at_layer = 4};
  EXPECT_NE(refusal(bare).find("blocks.2.attn.hook_rot_k"), std::string::npos) << refusal(bare);
  Input keys_only = bare;
  keys_only.start_state["blocks.2.attn.hook_rot_k"] = cache_->at("blocks.2.attn.hook_rot_k");
  EXPECT_NE(refusal(keys_only).find("blocks.2.attn.hook_v_normed"), std::string::npos)
      << refusal(keys_only);
  Input no_tokens = bare;
  no_tokens.tokens = at::Tensor();
  EXPECT_NE(refusal(no_tokens).find("hook_rot_k"), std::string::npos);
  const Input early{.embeddings = cache_->at("blocks.1.hook_resid_pre"), .start_at_layer = 1};
  EXPECT_NE(refusal(early).find("ple.hook_inputs"), std::string::npos) << refusal(early);
}

TEST_F(StartState, OnlyDonorsOfBlocksThatRunAreNeeded) {
  Input input{.tokens = tokens_, .embeddings = stream_, .start_at_layer = 4, .stop_at_layer = 6};
  for (const char* name : {"blocks.2.attn.hook_rot_k", "blocks.2.attn.hook_v_normed"}) {
    input.start_state[name] = cache_->at(name);
  }
  EXPECT_LE(distance(model_.run(input).output, cache_->at("blocks.6.hook_resid_pre")), 1e-13);
}

TEST_F(StartState, PerLayerInputsMayStandForTheTokens) {
  Input input{.embeddings = stream_, .start_at_layer = 4};
  for (const auto& [name, value] : cache_->items()) input.start_state[name] = value;
  EXPECT_LE(distance(model_.run(input).output, cache_->at("hook_logits")), 1e-13);
}

TEST_F(StartState, ItsValuesTakeTheModelsDtype) {
  Input input{.embeddings = stream_, .start_at_layer = 4};
  for (const auto& [name, value] : cache_->items()) input.start_state[name] = value.to(at::kFloat);
  EXPECT_LE(distance(model_.run(input).output, cache_->at("hook_logits")), 1e-5);
}

TEST_F(StartState, AValueOfAnotherShapeIsRefusedByName) {
  for (const char* name :
       {"blocks.2.attn.hook_rot_k", "blocks.3.attn.hook_v_normed", "ple.hook_inputs"}) {
    Input input{.embeddings = stream_, .start_at_layer = 4};
    for (const auto& [each, value] : cache_->items()) input.start_state[each] = value;
    input.start_state[name] = cache_->at(name).narrow(1, 0, 8);
    EXPECT_NE(refusal(input).find(name), std::string::npos) << name << ": " << refusal(input);
  }
}

}  // namespace
}  // namespace bezel::bridge
