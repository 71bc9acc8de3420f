// Runs that hand each other keys and values equal one run of all the tokens.
#include "bezel/bridge/kv_cache.h"

#include <stdexcept>

#include "bezel/hooks/error.h"
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

constexpr double kRounding = 1e-10;  // of float64
constexpr std::int64_t kLength = 14;

class KvCacheTest : public TinyTest {
 protected:
  at::Tensor fresh(const std::shared_ptr<KvCache>& cache, std::int64_t begin, std::int64_t n,
                   const hooks::Request& request = {}) const {
    return run(request, {.tokens = text_.narrow(1, begin, n), .kv_cache = cache}).output;
  }
  std::shared_ptr<KvCache> cache() const { return std::make_shared<KvCache>(model_.spec()); }

  at::Tensor text_ = tiny_tokens(2, kLength);
  at::Tensor whole_ = run({}, {.tokens = text_}).output;
};

INSTANTIATE_TEST_SUITE_P(Tiny, KvCacheTest, ::testing::ValuesIn(kVariants));

TEST_P(KvCacheTest, RunsOfPartsEqualOneRun) {
  for (const std::vector<std::int64_t>& parts :
       {std::vector<std::int64_t>{1, 1, 1, 11}, {3, 4, 1, 6}, {13, 1}, {6, 6, 2}}) {
    const auto held = cache();
    std::int64_t n = 0;
    for (const std::int64_t part : parts) {
      const auto logits = fresh(held, n, part);
      EXPECT_LT(distance(logits, whole_.narrow(1, n, part)), kRounding);
      n += part;
      EXPECT_EQ(held->n_seen(), n);
    }
    EXPECT_TRUE(at::equal(held->positions(), at::arange(kLength).expand({2, kLength})));
  }
}

TEST_P(KvCacheTest, BlocksWithAWindowKeepOneTokenLessThanIt) {
  const auto held = cache();
  fresh(held, 0, 9);
  for (const LayerSpec& layer : model_.spec().layers) {
    const bool sliding = layer.attention.window_tokens.has_value();
    EXPECT_EQ(held->n_keys(layer.attention, 2), (sliding ? kWindow - 1 : 9) + 2);
  }
  EXPECT_EQ(cache()->n_keys(model_.spec().layers[0].attention, 3), 3);
}

TEST_P(KvCacheTest, ARunThatRaisesLeavesTheCacheAsItWas) {
  for (const std::int64_t n_before : {0, 1, 4, 7}) {
    for (int layer = 0; layer < model_.spec().n_layers; ++layer) {
      const auto held = cache();
      if (n_before > 0) fresh(held, 0, n_before);
      const auto fail = [](at::Tensor, const hooks::HookSite&) -> at::Tensor {
        throw std::runtime_error("enough");
      };
      const std::string at = "blocks." + std::to_string(layer) + ".attn.hook_z";
      const hooks::Request failing{.edits = {hooks::edit(at, fail)}};
      EXPECT_THROW(fresh(held, n_before, 5, failing), std::runtime_error);
      EXPECT_EQ(held->n_seen(), n_before);
      const std::int64_t n_rest = kLength - n_before;
      EXPECT_LT(distance(fresh(held, n_before, n_rest), whole_.narrow(1, n_before, n_rest)),
                kRounding);
    }
  }
}

TEST_P(KvCacheTest, AFailedFirstRunDoesNotFixTheBatch) {
  const auto held = cache();
  const auto fail = [](at::Tensor, const hooks::HookSite&) -> at::Tensor {
    throw std::runtime_error("enough");
  };
  EXPECT_THROW(fresh(held, 0, 5, {.edits = {hooks::edit("hook_logits", fail)}}),
               std::runtime_error);
  const auto one_row = text_.narrow(0, 0, 1);
  const auto got = run({}, {.tokens = one_row.narrow(1, 0, 5), .kv_cache = held}).output;
  EXPECT_LT(distance(got, whole_.narrow(0, 0, 1).narrow(1, 0, 5)), kRounding);
}

TEST_P(KvCacheTest, KeysOfEarlierRunsDoNotChangeWithLaterOnes) {
  KvCache held(model_.spec());
  std::vector<std::pair<at::Tensor, at::Tensor>> seen;  // as handed out, and as they were then
  for (int step = 0; step < 12; ++step) {
    const KeysValues given = {at::randn({2, 1, 2, 8}), at::randn({2, 1, 2, 8})};
    const auto [keys, values] = held.with(0, given);
    EXPECT_TRUE(at::equal(keys.narrow(1, -1, 1), given.keys));
    EXPECT_TRUE(at::equal(values.narrow(1, -1, 1), given.values));
    EXPECT_EQ(keys.size(1), std::min<std::int64_t>(step + 1, kWindow));
    seen.emplace_back(keys, keys.clone());
    held.commit(at::full({2, 1}, step, at::kLong));
  }
  for (const auto& [now, then] : seen) EXPECT_TRUE(at::equal(now, then));
}

TEST_P(KvCacheTest, AFrozenCacheServesAnyNumberOfRunsAndRepeatsItsRows) {
  const auto held = cache();
  fresh(held, 0, 9);
  held->freeze(true);
  const auto rest = text_.narrow(1, 9, 5);
  const auto want = whole_.narrow(1, 9, 5);
  for (int i = 0; i < 2; ++i) EXPECT_LT(distance(fresh(held, 9, 5), want), kRounding);
  const auto twice = run({}, {.tokens = rest.repeat({2, 1}), .kv_cache = held}).output;
  EXPECT_LT(distance(twice, want.repeat({2, 1, 1})), kRounding);
  EXPECT_EQ(held->n_seen(), 9);
  EXPECT_THROW(run({}, {.tokens = tiny_tokens(3, 1), .kv_cache = held}), ArgumentError);
  held->freeze(false);
  EXPECT_THROW(run({}, {.tokens = tiny_tokens(4, 1), .kv_cache = held}), ArgumentError);
  EXPECT_LT(distance(fresh(held, 9, 5), want), kRounding);
  EXPECT_EQ(held->n_seen(), kLength);
}

TEST_P(KvCacheTest, AnEmptyFrozenCacheIsNoCache) {
  const auto held = cache();
  held->freeze(true);
  EXPECT_LT(distance(fresh(held, 0, kLength), whole_), kRounding);
  EXPECT_EQ(held->n_seen(), 0);
}

TEST_P(KvCacheTest, RunsOfSomeBlocksReadAFrozenCache) {
  const auto held = cache();
  fresh(held, 0, 9);
  held->freeze(true);
  const auto all = run({.names = {"*"}}, {.tokens = text_});
  Input input{.start_at_layer = 3, .kv_cache = held};
  input.embeddings = all.cache->at("blocks.3.hook_resid_pre").narrow(1, 9, 5);
  for (const auto& [name, value] : all.cache->items()) {
    if (name.ends_with("hook_rot_k") || name.ends_with("hook_v_normed") ||
        name == "ple.hook_inputs") {
      input.start_state[name] = value.narrow(1, 9, 5);
    }
  }
  EXPECT_LT(distance(run({}, input).output, whole_.narrow(1, 9, 5)), kRounding);
  const auto stopped =
      run({}, {.tokens = text_.narrow(1, 9, 5), .stop_at_layer = 3, .kv_cache = held});
  EXPECT_LT(distance(stopped.output, input.embeddings), kRounding);
  int n_blocks = 0;
  const RunOptions nothing{
      .path = Path::kOpen, .output = Output::kNothing, .check_interrupt = [&] { ++n_blocks; }};
  const auto early = model_.run({.tokens = text_.narrow(1, 9, 5), .kv_cache = held},
                                {.names = {"blocks.3.hook_resid_pre"}}, nothing);
  EXPECT_LT(distance(early.cache->at("blocks.3.hook_resid_pre"), input.embeddings), kRounding);
  EXPECT_EQ(n_blocks, 4);  // none that only keeps keys
}

TEST_P(KvCacheTest, RecordedKeysAndValuesAreACache) {
  const auto all = run({.names = {"blocks.*.attn.hook_rot_k", "blocks.*.attn.hook_v_normed"}},
                       {.tokens = text_});
  const auto positions = at::arange(9).expand({2, 9});
  const auto held = std::make_shared<KvCache>(model_.spec(), *all.cache, positions);
  EXPECT_TRUE(held->is_frozen());
  for (const LayerSpec& layer : model_.spec().layers)
    EXPECT_EQ(held->n_keys(layer.attention, 5), 14);
  EXPECT_LT(distance(fresh(held, 9, 5), whole_.narrow(1, 9, 5)), kRounding);
  const auto part = run({.names = {"blocks.1.attn.hook_rot_k", "blocks.1.attn.hook_v_normed"}},
                        {.tokens = text_});
  const auto too_few = std::make_shared<KvCache>(model_.spec(), *part.cache, positions);
  EXPECT_THROW(fresh(too_few, 9, 5), ArgumentError);
}

TEST_P(KvCacheTest, PaddingBeforeStaysHidden) {
  const auto mask = at::ones({2, kLength}, at::kLong);
  mask.select(0, 0).narrow(0, 0, 4).zero_();
  const auto want = run({}, {.tokens = text_, .attention_mask = mask}).output;
  const auto held = cache();
  for (const auto& [begin, n] : {std::pair{0, 6}, {6, 1}, {7, 7}}) {
    const auto got = run({}, {.tokens = text_.narrow(1, begin, n),
                              .attention_mask = mask.narrow(1, begin, n),
                              .kv_cache = held})
                         .output;
    const auto valid = mask.narrow(1, begin, n).to(at::kBool);
    EXPECT_LT(distance(got.index({valid}), want.narrow(1, begin, n).index({valid})), kRounding);
  }
}

TEST_P(KvCacheTest, AnotherBatchIsRefused) {
  const auto held = cache();
  fresh(held, 0, 4);
  EXPECT_THROW(run({}, {.tokens = tiny_tokens(3, 1), .kv_cache = held}), ArgumentError);
  EXPECT_EQ(held->n_seen(), 4);
}

TEST_P(KvCacheTest, ACacheOfAnotherModelIsRefused) {
  const auto other = std::make_shared<KvCache>(tiny_model({tiny_layer(true, 10)}));
  EXPECT_THROW(fresh(other, 0, 4), ArgumentError);
  const auto narrow = std::make_shared<KvCache>(model_.spec());
  narrow->with(0, {at::randn({2, 3, 2, 4}), at::randn({2, 3, 2, 4})});
  narrow->commit(at::arange(3).expand({2, 3}));
  EXPECT_THROW(fresh(narrow, 3, 1), ArgumentError);
}

TEST_P(KvCacheTest, PartsOfTheModelAndGradientsAreRefused) {
  const auto tokens = text_.narrow(1, 0, 4);
  EXPECT_THROW(run({}, {.tokens = tokens, .stop_at_layer = 1, .kv_cache = cache()}), ArgumentError);
  const auto stream = at::zeros({2, 4, model_.spec().d_model}, at::kDouble);
  EXPECT_THROW(
      run({}, {.tokens = tokens, .embeddings = stream, .start_at_layer = 1, .kv_cache = cache()}),
      ArgumentError);
  EXPECT_THROW(
      run({.names = {"hook_embed"}, .gradients = true}, {.tokens = tokens, .kv_cache = cache()}),
      ArgumentError);
}

}  // namespace
}  // namespace bezel::bridge
