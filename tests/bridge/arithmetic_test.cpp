// Every value from the recorded values it is computed from, in float64 and written out plainly.
#include "tests/bridge/tiny.h"

namespace bezel::bridge {
namespace {

class Arithmetic : public TinyTest {
 protected:
  void SetUp() override { cache_ = run({.names = {"*"}}).cache; }
  at::Tensor at(int layer, const std::string& name) const {
    return cache_->at("blocks." + std::to_string(layer) + "." + name);
  }
  void expect(int layer, const std::string& name, const at::Tensor& wanted) const {
    ASSERT_EQ(at(layer, name).sizes(), wanted.sizes()) << layer << " " << name;
    const double size = std::max(1.0, wanted.abs().max().item<double>());
    EXPECT_LE(distance(at(layer, name), wanted), 1e-13 * size) << layer << " " << name;
  }
  at::Tensor normed(const at::Tensor& x) const {
    return x / (x.pow(2).mean(-1, true) + model_.spec().norm_eps).sqrt();
  }
  // Rows [begin, begin + n_heads * d_head) of a matrix applied to x, head by head.
  static at::Tensor heads(const at::Tensor& x, const at::Tensor& matrix, std::int64_t begin,
                          std::int64_t n_heads, std::int64_t d_head) {
    return at::matmul(x, matrix.narrow(0, begin, n_heads * d_head).t())
        .unflatten(-1, {n_heads, d_head});
  }
  // Pair i of a head as the complex number x_i + i x_{i + d/2}, times e^{i position θ^(-2i/d)}.
  static at::Tensor turned(const at::Tensor& x, const AttentionSpec& spec) {
    const auto halves = x.chunk(2, -1);
    const auto place = at::arange(x.size(1), at::kDouble).view({1, -1, 1, 1});
    const auto pair = at::arange(spec.d_head / 2, at::kDouble);
    const auto speed = at::pow(spec.rope.theta, pair * -2.0 / spec.d_head)
                           .masked_fill(pair >= spec.rope.n_rotated_pairs, 0.0);
    const auto turned =
        at::complex(halves[0], halves[1]) * at::polar(at::ones({1}, at::kDouble), place * speed);
    return at::cat({at::real(turned), at::imag(turned)}, -1);
  }
  std::shared_ptr<hooks::ActivationCache> cache_;
};

TEST_P(Arithmetic, QueriesKeysAndValuesAreProjectionsOfTheNormedStreamNormedAndTurned) {
  for (int i = 0; i < static_cast<int>(model_.spec().n_layers); ++i) {
    const AttentionSpec& spec = model_.spec().layers[i].attention;
    const LayerWeights& w = model_.weights().layers[i];
    const auto x = at(i, "ln1.hook_normalized") * w.ln1;
    const std::int64_t n_q = spec.n_heads * spec.d_head, n_k = spec.n_kv_heads * spec.d_head;
    expect(i, "attn.hook_q", heads(x, w.attention.qkv, 0, spec.n_heads, spec.d_head));
    expect(i, "attn.hook_q_normed", normed(at(i, "attn.hook_q")) * w.attention.q_norm);
    expect(i, "attn.hook_rot_q", turned(at(i, "attn.hook_q_normed"), spec));
    if (spec.donor) continue;
    expect(i, "attn.hook_k", heads(x, w.attention.qkv, n_q, spec.n_kv_heads, spec.d_head));
    expect(i, "attn.hook_k_normed", normed(at(i, "attn.hook_k")) * w.attention.k_norm);
    expect(i, "attn.hook_rot_k", turned(at(i, "attn.hook_k_normed"), spec));
    const std::int64_t v_row = spec.k_is_v ? n_q : n_q + n_k;
    expect(i, "attn.hook_v", heads(x, w.attention.qkv, v_row, spec.n_kv_heads, spec.d_head));
    expect(i, "attn.hook_v_normed", normed(at(i, "attn.hook_v")));  // no gain, no RoPE
  }
}

TEST_P(Arithmetic, ScoresAreQueriesTimesKeysUnscaledWhereTheMaskLetsThem) {
  for (int i = 0; i < static_cast<int>(model_.spec().n_layers); ++i) {
    const AttentionSpec& spec = model_.spec().layers[i].attention;
    const auto keys = at(i, spec.donor ? "attn.hook_shared_k" : "attn.hook_rot_k")
                          .repeat_interleave(spec.n_heads / spec.n_kv_heads, 2);
    const auto dots =
        at::matmul(at(i, "attn.hook_rot_q").transpose(1, 2), keys.permute({0, 2, 3, 1}));
    const auto behind = at::arange(9).unsqueeze(1) - at::arange(9);
    const auto seen = (behind >= 0).logical_and(behind < spec.window_tokens.value_or(9));
    const auto scores = at(i, "attn.hook_attn_scores");
    EXPECT_LE(distance(scores.masked_fill(~seen, 0), dots.masked_fill(~seen, 0)), 1e-13) << i;
    EXPECT_TRUE((scores.masked_fill(seen, -1e300) <= -1e300).all().item<bool>()) << i;
  }
}

TEST_P(Arithmetic, TheFeedForwardIsAGatedProjectionThereAndBack) {
  for (int i = 0; i < static_cast<int>(model_.spec().n_layers); ++i) {
    const LayerWeights& w = model_.weights().layers[i];
    const std::int64_t d_mlp = model_.spec().layers[i].mlp.d_mlp;
    const auto x = at(i, "ln2.hook_normalized") * w.ln2;
    expect(i, "mlp.hook_pre", at::matmul(x, w.mlp.gate_up.narrow(0, 0, d_mlp).t()));
    expect(i, "mlp.hook_pre_linear", at::matmul(x, w.mlp.gate_up.narrow(0, d_mlp, d_mlp).t()));
    expect(i, "mlp.hook_post",
           at::gelu(at(i, "mlp.hook_pre"), "tanh") * at(i, "mlp.hook_pre_linear"));
    expect(i, "mlp.hook_out", at::matmul(at(i, "mlp.hook_post"), w.mlp.down.t()));
  }
}

TEST_P(Arithmetic, PerLayerEmbeddingsGateTheBlocksSliceOfThem) {
  if (model_.spec().d_ple == 0) return;
  for (int i = 0; i < static_cast<int>(model_.spec().n_layers); ++i) {
    const PleWeights& w = *model_.weights().layers[i].ple;
    const auto stream = at(i, "hook_resid_mid") + at(i, "hook_mlp_out");
    expect(i, "ple.hook_gate", at::matmul(stream, w.gate.t()));
    expect(i, "ple.hook_post", at::gelu(at(i, "ple.hook_gate"), "tanh") * at(i, "ple.hook_input"));
  }
}

TEST_P(Arithmetic, EmbeddingsAreTableRowsTimesTheRootOfTheWidth) {
  const auto rows = at::embedding(model_.weights().embed, tokens_);
  EXPECT_LE(distance(cache_->at("hook_embed"), rows * std::sqrt(12.0)), 1e-14);
}

INSTANTIATE_TEST_SUITE_P(Tiny, Arithmetic, ::testing::ValuesIn(kVariants));

}  // namespace
}  // namespace bezel::bridge
