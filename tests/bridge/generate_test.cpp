// A generation against the plain loop that runs the whole text for every token.
#include "bezel/bridge/generate.h"

#include <stdexcept>

#include "bezel/bridge/kv_cache.h"
#include "bezel/hooks/error.h"
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

constexpr std::int64_t kNew = 12;  // past the window
constexpr double kRounding = 1e-10;

at::Tensor rows(bool first, bool second) {
  return at::tensor({first ? 1 : 0, second ? 1 : 0}, at::kLong).to(at::kBool);
}

class GenerateTest : public TinyTest {
 protected:
  /// The slow loop.
  at::Tensor continued(at::Tensor text, std::int64_t n_new = kNew) const {
    const auto ones = [](const at::Tensor& tokens) { return at::ones_like(tokens); };
    for (std::int64_t i = 0; i < n_new; ++i) {
      const auto logits = run({}, {.tokens = text, .attention_mask = ones(text)}).output;
      text = at::cat({text, logits.select(1, -1).argmax(-1, /*keepdim=*/true)}, 1);
    }
    return text;
  }
  GenerateOptions options(bool uses_kv_cache = true) const {
    return {.max_new_tokens = kNew,
            .eos_token_ids = std::vector<std::int64_t>{},
            .uses_kv_cache = uses_kv_cache,
            .run = {.path = Path::kOpen}};
  }
};

INSTANTIATE_TEST_SUITE_P(Tiny, GenerateTest, ::testing::ValuesIn(kVariants));

TEST_P(GenerateTest, GreedyTokensAreThoseOfTheSlowLoop) {
  const auto want = continued(tokens_);
  for (const bool uses_kv_cache : {true, false}) {
    const auto got = generate(model_, {.tokens = tokens_}, {}, options(uses_kv_cache));
    EXPECT_TRUE(at::equal(got.tokens, want)) << uses_kv_cache;
    EXPECT_FALSE(got.logits.defined());
    EXPECT_EQ(got.cache, nullptr);
  }
}

TEST_P(GenerateTest, ValuesOfTheStepsAreThoseOfOneRun) {
  const hooks::Request request{.names = every_name()};
  for (const bool uses_kv_cache : {true, false}) {
    auto with = options(uses_kv_cache);
    with.keeps_values = with.keeps_logits = true;
    const auto got = generate(model_, {.tokens = tokens_}, request, with);
    const auto text = got.tokens.narrow(1, 0, got.tokens.size(1) - 1);
    const auto want = run(request, {.tokens = text, .attention_mask = at::ones_like(text)});
    EXPECT_LT(distance(got.logits, want.output.narrow(1, tokens_.size(1) - 1, kNew)), kRounding);
    ASSERT_EQ(got.cache->items().size(), want.cache->items().size());
    for (const auto& [name, value] : want.cache->items()) {
      ASSERT_EQ(got.cache->at(name).sizes(), value.sizes()) << name;
      EXPECT_LT(distance(got.cache->at(name), value), kRounding) << name;
    }
  }
}

TEST_P(GenerateTest, EndedRowsAreFilledAndTheOthersGoOn) {
  const auto free = continued(tokens_);
  const std::int64_t n_prompt = tokens_.size(1);
  const auto eos = free.select(0, 0).select(0, n_prompt + 3).item<std::int64_t>();
  auto with = options();
  with.eos_token_ids = std::vector<std::int64_t>{eos};
  const auto got = generate(model_, {.tokens = tokens_}, {}, with).tokens;
  for (std::int64_t row = 0; row < 2; ++row) {
    bool ended = false;
    for (std::int64_t i = n_prompt; i < got.size(1); ++i) {
      const auto token = got.select(0, row).select(0, i).item<std::int64_t>();
      const auto freely = free.select(0, row).select(0, i).item<std::int64_t>();
      EXPECT_EQ(token, ended ? model_.spec().pad_token_id.value_or(0) : freely);
      ended = ended || token == eos;
    }
    EXPECT_TRUE(ended || got.size(1) == n_prompt + kNew);
  }
}

TEST_P(GenerateTest, RowsEndWhenTheyAreToldTo) {
  const auto free = continued(tokens_);
  Generation generation(model_, {.tokens = tokens_}, {}, options());
  EXPECT_TRUE(generation.next().defined());
  generation.end(rows(true, false));
  EXPECT_EQ(generation.next().select(0, 0).item<std::int64_t>(),
            model_.spec().pad_token_id.value_or(0));
  generation.end(rows(false, false));  // does not open a row again
  const auto third = generation.next();
  EXPECT_EQ(third.select(0, 0).item<std::int64_t>(), model_.spec().pad_token_id.value_or(0));
  EXPECT_TRUE(at::equal(third.select(0, 1), free.select(0, 1).select(0, tokens_.size(1) + 2)));
  generation.end(rows(true, true));
  EXPECT_FALSE(generation.next().defined());
  EXPECT_EQ(generation.result().tokens.size(1), tokens_.size(1) + 3);
  EXPECT_THROW(generation.end(at::ones({3}, at::kBool)), ArgumentError);
  EXPECT_THROW(generation.end(at::ones({2}, at::kLong)), ArgumentError);
}

TEST_P(GenerateTest, HooksHearTheStep) {
  std::vector<int> steps;
  const auto listen = [&](at::Tensor, const hooks::HookSite& at) {
    steps.push_back(at.step);
    return at::Tensor();
  };
  generate(model_, {.tokens = tokens_}, {.edits = {hooks::edit("hook_embed", listen)}}, options());
  std::vector<int> want;
  for (int step = 0; step < kNew; ++step) want.push_back(step);
  EXPECT_EQ(steps, want);
}

TEST_P(GenerateTest, ThePromptIsLeftAsItWas) {
  const auto before = tokens_.clone();
  const Input prompt{.tokens = tokens_};
  generate(model_, prompt, {}, options());
  EXPECT_TRUE(at::equal(tokens_, before));
  EXPECT_FALSE(prompt.kv_cache);
}

TEST_P(GenerateTest, AnEndedRowIsFilledWithThePadOfTheModel) {
  ModelSpec spec = GetParam().spec();
  spec.pad_token_id = 7;
  const Bridge model = tiny_bridge(spec);
  Generation generation(model, {.tokens = tokens_}, {}, options());
  generation.end(rows(false, true));
  EXPECT_EQ(generation.next().select(0, 1).item<std::int64_t>(), 7);
}

TEST_P(GenerateTest, OnlyTheLastLogitsAreComputedWhereNoValueIsKept) {
  std::vector<std::int64_t> lengths;
  const auto listen = [&](at::Tensor logits, const hooks::HookSite&) {
    lengths.push_back(logits.size(1));
    return at::Tensor();
  };
  for (const bool uses_kv_cache : {true, false}) {
    lengths.clear();
    generate(model_, {.tokens = tokens_}, {.edits = {hooks::edit("hook_logits", listen)}},
             options(uses_kv_cache));
    EXPECT_EQ(lengths, std::vector<std::int64_t>(kNew, 1));
  }
}

TEST_P(GenerateTest, EveryStepRunsAsItIsTold) {
  int n_blocks = 0;
  auto with = options();
  with.run.check_interrupt = [&] { ++n_blocks; };
  generate(model_, {.tokens = tokens_}, {}, with);
  EXPECT_EQ(n_blocks, kNew * model_.spec().n_layers);
  with.run.check_interrupt = [&] {
    if (--n_blocks == 5) throw std::runtime_error("enough");
  };
  EXPECT_THROW(generate(model_, {.tokens = tokens_}, {}, with), std::runtime_error);
}

// Whoever asks for patterns of a very long text is told before the first of its many steps.
TEST_P(GenerateTest, ValuesOfAllStepsMustFit) {
  const hooks::Request request{.names = {"blocks.*.attn.hook_pattern"}};
  auto with = options();
  with.max_new_tokens = 1'000'000;
  const auto begin = [&] { Generation(model_, {.tokens = tokens_}, request, with); };
  EXPECT_NO_THROW(begin());
  with.keeps_values = true;
  EXPECT_THROW(begin(), CacheTooLargeError);
}

TEST_P(GenerateTest, WhatCannotGoOnIsRefused) {
  const auto says = [&](const char* words, const Input& prompt, const hooks::Request& request = {},
                        std::int64_t max_new_tokens = kNew) {
    auto with = options();
    with.max_new_tokens = max_new_tokens;
    try {
      Generation(model_, prompt, request, with);
      ADD_FAILURE() << "accepted; wanted: " << words;
    } catch (const ArgumentError& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  };
  const auto stream = at::zeros({2, 9, model_.spec().d_model}, at::kDouble);
  const char* ids = "generate takes token ids";
  says(ids, {.embeddings = stream});
  says(ids, {.tokens = tokens_, .embeddings = stream});
  says(ids, {.tokens = tokens_, .start_at_layer = 0});
  says(ids, {.tokens = tokens_, .stop_at_layer = 2});
  says(ids, {.tokens = tokens_, .logits_to_keep = 1});
  says(ids, {.tokens = tokens_, .kv_cache = std::make_shared<KvCache>(model_.spec())});
  auto behind = at::ones_like(tokens_);
  behind.select(1, -1).select(0, 1).zero_();  // of one row
  says("pad on the left", {.tokens = tokens_, .attention_mask = behind});
  says("pos_slice", {.tokens = tokens_}, {.pos_slice = hooks::PosSlice{0, 3}});
  says("max_new_tokens is 0", {.tokens = tokens_}, {}, 0);
}

}  // namespace
}  // namespace bezel::bridge
