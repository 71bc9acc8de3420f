// The identities between names that hold by definition, in float64.
#include "bezel/hooks/cache.h"
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

constexpr double kRounding = 1e-13;

class Identities : public TinyTest {
 protected:
  void SetUp() override { cache_ = run({.names = every_name()}).cache; }
  at::Tensor at(int layer, const std::string& name) const {
    return cache_->at("blocks." + std::to_string(layer) + "." + name);
  }
  at::Tensor at(const std::string& name) const { return cache_->at(name); }
  bool has(int layer, const std::string& name) const {
    return cache_->contains("blocks." + std::to_string(layer) + "." + name);
  }
  int n_layers() const { return static_cast<int>(model_.spec().n_layers); }
  const LayerWeights& weights(int layer) const { return model_.weights().layers[layer]; }
  void expect_near(const at::Tensor& a, const at::Tensor& b, const std::string& what) const {
    ASSERT_EQ(a.sizes(), b.sizes()) << what;
    EXPECT_LE(distance(a, b), kRounding * std::max(1.0, b.abs().max().item<double>())) << what;
  }
  std::shared_ptr<hooks::ActivationCache> cache_;
};

TEST_P(Identities, TheStreamLeavingABlockIsTheStreamEnteringTheNext) {
  EXPECT_TRUE(at::equal(at("hook_full_embed"), at(0, "hook_resid_pre")));
  EXPECT_TRUE(at::equal(at("hook_embed"), at("hook_full_embed")));
  for (int i = 1; i < n_layers(); ++i) {
    EXPECT_TRUE(at::equal(at(i - 1, "hook_resid_post"), at(i, "hook_resid_pre"))) << i;
    EXPECT_TRUE(at(i - 1, "hook_resid_post").is_alias_of(at(i, "hook_resid_pre"))) << i;
  }
}

TEST_P(Identities, AValueThatIsHandedOnAsItIsSharesItsCopy) {
  EXPECT_TRUE(at("hook_embed").is_alias_of(at("hook_full_embed")));
  EXPECT_TRUE(at("hook_full_embed").is_alias_of(at(0, "hook_resid_pre")));
  EXPECT_EQ(at("hook_unembed").is_alias_of(at("hook_logits")), !model_.spec().softcap);
  for (int i = 0; i < n_layers(); ++i) {
    EXPECT_TRUE(at(i, "hook_attn_in").is_alias_of(at(i, "hook_resid_pre"))) << i;
    EXPECT_TRUE(at(i, "hook_mlp_in").is_alias_of(at(i, "hook_resid_mid"))) << i;
  }
}

TEST_P(Identities, TheBranchesAreWhatIsAddedToTheStream) {
  for (int i = 0; i < n_layers(); ++i) {
    EXPECT_TRUE(
        at::equal(at(i, "hook_resid_pre") + at(i, "hook_attn_out"), at(i, "hook_resid_mid")));
    auto sum = at(i, "hook_resid_mid") + at(i, "hook_mlp_out");
    if (has(i, "hook_ple_out")) sum = sum + at(i, "hook_ple_out");
    EXPECT_TRUE(at::equal(sum * weights(i).layer_scalar, at(i, "hook_resid_post"))) << i;
    EXPECT_NE(weights(i).layer_scalar.item<double>(), 1.0);
  }
}

TEST_P(Identities, HeadsSumToTheAttentionsOutput) {
  for (int i = 0; i < n_layers(); ++i) {
    expect_near(at(i, "attn.hook_result").sum(2), at(i, "attn.hook_out"), "result");
    const auto out = at::matmul(at(i, "attn.hook_z").flatten(2), weights(i).attention.out.t());
    expect_near(out, at(i, "attn.hook_out"), "z");
  }
}

TEST_P(Identities, ThePatternIsTheSoftmaxOfTheScoresAndRowsSumToOne) {
  for (int i = 0; i < n_layers(); ++i) {
    const auto pattern = at(i, "attn.hook_pattern");
    EXPECT_TRUE(at::equal(at::softmax(at(i, "attn.hook_attn_scores"), -1), pattern));
    expect_near(pattern.sum(-1), at::ones_like(pattern.select(-1, 0)), "rows");
  }
}

TEST_P(Identities, ZIsThePatternTimesTheValues) {
  for (int i = 0; i < n_layers(); ++i) {
    const auto& spec = model_.spec().layers[i].attention;
    const auto v = at(i, spec.donor ? "attn.hook_shared_v" : "attn.hook_v_normed");
    const auto per_head = v.repeat_interleave(spec.n_heads / spec.n_kv_heads, 2).transpose(1, 2);
    const auto z = at::matmul(at(i, "attn.hook_pattern"), per_head).transpose(1, 2);
    expect_near(z, at(i, "attn.hook_z"), "z of block " + std::to_string(i));
  }
}

TEST_P(Identities, NormalizedTimesScaleIsTheInputOfEveryNorm) {
  const auto expect_norm = [&](const std::string& norm, const at::Tensor& input) {
    const auto scale = at(norm + ".hook_scale"), normalized = at(norm + ".hook_normalized");
    expect_near(normalized * scale, input, norm);
    expect_near(scale.pow(2), input.pow(2).mean(-1, true) + model_.spec().norm_eps, norm);
  };
  for (int i = 0; i < n_layers(); ++i) {
    const std::string block = "blocks." + std::to_string(i) + ".";
    expect_norm(block + "ln1", at(i, "hook_attn_in"));
    expect_norm(block + "ln1_post", at(i, "attn.hook_out"));
    expect_norm(block + "ln2", at(i, "hook_mlp_in"));
    if (!has(i, "moe.hook_out")) {
      expect_norm(block + "ln2_post", at(i, "mlp.hook_out"));
    } else {
      expect_norm(block + "ln2_moe", at(i, "hook_mlp_in"));
      expect_norm(block + "ln2_dense_post", at(i, "mlp.hook_out"));
      expect_norm(block + "ln2_moe_post", at(i, "moe.hook_out"));
      const auto& w = *weights(i).moe;
      expect_norm(block + "ln2_post", at(i, "ln2_dense_post.hook_normalized") * w.ln2_dense_post +
                                          at(i, "ln2_moe_post.hook_normalized") * w.ln2_moe_post);
    }
    if (!has(i, "hook_ple_out")) continue;
    expect_norm(block + "ple_post",
                at::matmul(at(i, "ple.hook_post"), weights(i).ple->projection.t()));
  }
  expect_norm("ln_final", at(n_layers() - 1, "hook_resid_post"));
}

TEST_P(Identities, BranchOutputsAreTheirPostNormsTimesTheGain) {
  for (int i = 0; i < n_layers(); ++i) {
    expect_near(at(i, "ln1_post.hook_normalized") * weights(i).ln1_post, at(i, "hook_attn_out"),
                "attn");
    expect_near(at(i, "ln2_post.hook_normalized") * weights(i).ln2_post, at(i, "hook_mlp_out"),
                "mlp");
    if (!has(i, "hook_ple_out")) continue;
    expect_near(at(i, "ple_post.hook_normalized") * weights(i).ple->post_norm,
                at(i, "hook_ple_out"), "ple");
  }
}

TEST_P(Identities, ExpertsSumToTheirOutputAndWeightsComeFromTheProbabilities) {
  for (int i = 0; i < n_layers(); ++i) {
    if (!has(i, "moe.hook_out")) continue;
    expect_near(at(i, "moe.hook_expert_out").sum(2), at(i, "moe.hook_out"), "experts");
    const auto probs = at(i, "moe.hook_router_probs");
    expect_near(at::softmax(at(i, "moe.hook_router_logits"), -1), probs, "probs");
    const auto indices = at(i, "moe.hook_expert_indices");
    EXPECT_TRUE(at::equal(std::get<1>(probs.topk(2, -1)), indices));
    const auto raw = probs.gather(-1, indices);
    const auto scale = weights(i).moe->per_expert_scale.index_select(0, indices.flatten());
    expect_near(raw / raw.sum(-1, true) * scale.view_as(raw), at(i, "moe.hook_expert_weights"),
                "weights");
  }
}

TEST_P(Identities, PerLayerInputsAreBothPartsAndEachBlockTakesItsSlice) {
  if (model_.spec().d_ple == 0) return;
  expect_near((at("ple.hook_token") + at("ple.hook_context")) / std::sqrt(2.0),
              at("ple.hook_inputs"), "");
  for (int i = 0; i < n_layers(); ++i) {
    EXPECT_TRUE(at::equal(at("ple.hook_inputs").select(2, i), at(i, "ple.hook_input")));
  }
}

TEST_P(Identities, SharersConsumeTheirDonorsKeysAndValuesAndKEqualsVWhereTheSpecSaysSo) {
  for (int i = 0; i < n_layers(); ++i) {
    const auto& spec = model_.spec().layers[i].attention;
    if (spec.donor) {
      EXPECT_TRUE(at::equal(at(i, "attn.hook_shared_k"), at(*spec.donor, "attn.hook_rot_k")));
      EXPECT_TRUE(at::equal(at(i, "attn.hook_shared_v"), at(*spec.donor, "attn.hook_v_normed")));
      EXPECT_TRUE(at(i, "attn.hook_shared_k").is_alias_of(at(*spec.donor, "attn.hook_rot_k")));
    } else {
      EXPECT_EQ(at::equal(at(i, "attn.hook_k"), at(i, "attn.hook_v")), spec.k_is_v) << i;
    }
  }
}

TEST_P(Identities, LogitsAreTheCappedUnembeddingOfTheFinalNorm) {
  const auto normed = at("ln_final.hook_normalized") * model_.weights().ln_final;
  expect_near(at::matmul(normed, model_.weights().unembed.t()), at("hook_unembed"), "unembed");
  const auto cap = model_.spec().softcap;
  const auto raw = at("hook_unembed");
  expect_near(cap ? *cap * at::tanh(raw / *cap) : raw, at("hook_logits"), "logits");
}

TEST_P(Identities, TheFinalStreamIsTheSumOfItsPartsWithTheLaterScalars) {
  auto sum = at("hook_full_embed");
  for (int i = 0; i < n_layers(); ++i) {
    sum = sum + at(i, "hook_attn_out") + at(i, "hook_mlp_out");
    if (has(i, "hook_ple_out")) sum = sum + at(i, "hook_ple_out");
    sum = sum * weights(i).layer_scalar;
  }
  expect_near(sum, at(n_layers() - 1, "hook_resid_post"), "stream");
}

TEST_P(Identities, TheCacheTakesExactlyTheBytesOfThePlan) {
  for (const hooks::Request& extra :
       {hooks::Request{}, hooks::Request{.dtype = at::kBFloat16},
        hooks::Request{.pos_slice = hooks::PosSlice{.start = -2, .stop = {}}}}) {
    hooks::Request request = extra;
    request.names = every_name();
    std::map<const void*, std::int64_t> storages;
    for (const auto& [name, value] : run(request).cache->items()) {
      storages[value.storage().unsafeGetStorageImpl()] =
          static_cast<std::int64_t>(value.storage().nbytes());
    }
    std::int64_t n_bytes = 0;
    for (const auto& [storage, size] : storages) n_bytes += size;
    EXPECT_EQ(n_bytes, model_.plan({.tokens = tokens_}, request)->cache_bytes());
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, Identities, ::testing::ValuesIn(kVariants));

}  // namespace
}  // namespace bezel::bridge
