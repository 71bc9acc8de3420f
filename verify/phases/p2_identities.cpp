// P2: the sums and identities of the hook table. Each row says what its value must be, computed
// from other recorded values in plain loops.
#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <string_view>

#include "bezel/verify/compare.h"
#include "bezel/verify/phases/p2_hooks.h"
#include "bezel/verify/phases/p2_values.h"

namespace bezel::verify {
namespace {

using hooks::HookId;
using hooks::SiteRow;
using plain::Values;

/// The recorded values of a run, as one block sees them.
class Block {
 public:
  /// `row` is the one that is looked at.
  Block(const bridge::Bridge& model, const hooks::ActivationCache& cache, int layer, HookId row)
      : model_(model), cache_(cache), layer_(layer), row_(row) {}

  const bridge::ModelSpec& model_spec() const { return model_.spec(); }
  const bridge::LayerSpec& spec() const { return model_.spec().layers[layer_]; }
  const bridge::LayerWeights& weights() const { return model_.weights().layers[layer_]; }
  const bridge::Weights& model_weights() const { return model_.weights(); }
  int layer() const { return layer_; }
  /// "ln1" of the rows "ln1.hook_scale" and "ln1.hook_normalized".
  std::string_view norm() const { return row_.point().name.substr(0, row_.point().name.find('.')); }
  double eps() const { return model_.spec().norm_eps; }
  bool has_ple() const { return model_.spec().d_ple > 0; }

  Values of_model(const std::string& name) const { return numbers(cache_.at(name)); }
  Values at(const std::string& row) const { return of(layer_, row); }
  Values of(int layer, const std::string& row) const {
    return of_model("blocks." + std::to_string(layer) + "." + row);
  }
  static Values numbers(const at::Tensor& value) { return xt::cast<double>(to_xarray(value)); }

 private:
  const bridge::Bridge& model_;
  const hooks::ActivationCache& cache_;
  int layer_;
  HookId row_;
};

/// What the value of a row must be. In a row of the model the block is the last one.
struct Identity {
  HookId row;
  bool is_exact;  // the same tensor handed on, bit for bit
  Values (*want)(const Block& in);
  bool (*applies)(const Block& in) = [](const Block&) { return true; };
};

Values norm_input(const Block& in) {
  const auto norm = in.norm();
  if (norm == "ln1") return in.at("hook_attn_in");
  if (norm == "ln1_post") return in.at("attn.hook_out");
  if (norm == "ln2" || norm == "ln2_moe") return in.at("hook_mlp_in");
  if (norm == "ln2_dense_post") return in.at("mlp.hook_out");
  if (norm == "ln2_moe_post") return in.at("moe.hook_out");
  if (norm == "ln_final") return in.at("hook_resid_post");
  if (norm == "ple_post") {
    return plain::linear(in.at("ple.hook_post"), Block::numbers(in.weights().ple->projection));
  }
  if (!in.spec().moe) return in.at("mlp.hook_out");
  const auto& w = *in.weights().moe;
  return plain::times(in.at("ln2_dense_post.hook_normalized"), Block::numbers(w.ln2_dense_post)) +
         plain::times(in.at("ln2_moe_post.hook_normalized"), Block::numbers(w.ln2_moe_post));
}

Values scale_of(const Block& in) { return plain::scale(norm_input(in), in.eps()); }
Values normalized_of(const Block& in) { return plain::normalized(norm_input(in), in.eps()); }

Values stream_before(const Block& in) {
  return in.layer() == 0 ? in.of_model("hook_full_embed")
                         : in.of(in.layer() - 1, "hook_resid_post");
}

Values stream_after(const Block& in) {
  Values sum = in.at("hook_resid_mid") + in.at("hook_mlp_out");
  if (in.has_ple()) sum += in.at("hook_ple_out");
  return sum * Block::numbers(in.weights().layer_scalar);
}

Values turned(const Block& in, const char* row) {
  const auto& rope = in.spec().attention.rope;
  return plain::rotated(in.at(row), {rope.theta, static_cast<std::size_t>(rope.n_rotated_pairs)});
}

Values scores_of(const Block& in) {
  const auto& attention = in.spec().attention;
  const auto q = in.at("attn.hook_rot_q");
  return plain::scores(q, in.at(attention.donor ? "attn.hook_shared_k" : "attn.hook_rot_k"),
                       static_cast<std::size_t>(attention.window_tokens.value_or(
                           static_cast<std::int64_t>(q.shape(1)))));
}

Values values_of_head(const Block& in) {
  return in.at(in.spec().attention.donor ? "attn.hook_shared_v" : "attn.hook_v_normed");
}

Values gained(const Block& in, const char* normalized, const at::Tensor& gain) {
  return plain::times(in.at(normalized), Block::numbers(gain));
}

Values slice_of_inputs(const Block& in) {
  const auto whole = in.of_model("ple.hook_inputs");  // [batch pos layer d_ple]
  const std::size_t n_layers = whole.shape(2), width = whole.shape(3);
  Values slice = Values::from_shape({whole.shape(0), whole.shape(1), width});
  for (std::size_t i = 0; i < slice.size(); ++i) {
    const std::size_t token = i / width;
    slice.flat(i) = whole.flat((token * n_layers + in.layer()) * width + i % width);
  }
  return slice;
}

// The chosen experts of each token, highest probability first.
Values chosen_experts(const Block& in) {
  const auto probs = in.at("moe.hook_router_probs");
  const std::size_t n_experts = probs.shape(2), n_chosen = in.spec().moe->n_chosen;
  Values chosen = Values::from_shape({probs.shape(0), probs.shape(1), n_chosen});
  std::vector<std::size_t> order(n_experts);
  for (std::size_t token = 0; token < probs.size() / n_experts; ++token) {
    const double* of_token = probs.data() + token * n_experts;
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, [&](auto a, auto b) { return of_token[a] > of_token[b]; });
    std::copy_n(order.begin(), n_chosen, chosen.data() + token * n_chosen);
  }
  return chosen;
}

Values expert_weights(const Block& in) {
  const auto probs = in.at("moe.hook_router_probs"), chosen = in.at("moe.hook_expert_indices");
  const auto scale = Block::numbers(in.weights().moe->per_expert_scale);
  const std::size_t n_experts = probs.shape(2), n_chosen = chosen.shape(2);
  Values made = chosen;
  for (std::size_t token = 0; token < chosen.size() / n_chosen; ++token) {
    double sum = 0;
    const auto expert = [&](std::size_t i) {
      return static_cast<std::size_t>(chosen.flat(token * n_chosen + i));
    };
    for (std::size_t i = 0; i < n_chosen; ++i) sum += probs.flat(token * n_experts + expert(i));
    for (std::size_t i = 0; i < n_chosen; ++i) {
      made.flat(token * n_chosen + i) =
          probs.flat(token * n_experts + expert(i)) / sum * scale(expert(i));
    }
  }
  return made;
}

Values capped(const Block& in) {
  const auto raw = in.of_model("hook_unembed");
  const auto cap = in.model_spec().softcap;
  return cap ? Values(*cap * xt::tanh(raw / *cap)) : raw;
}

// clang-format off
constexpr auto kIdentities = std::to_array<Identity>({
    {"hook_full_embed", true, [](const Block& in) { return in.of_model("hook_embed"); }},
    {"ple.hook_inputs", false, [](const Block& in) { return Values((in.of_model("ple.hook_token") + in.of_model("ple.hook_context")) * M_SQRT1_2); }},
    {"hook_resid_pre", true, &stream_before},
    {"hook_attn_in", true, [](const Block& in) { return in.at("hook_resid_pre"); }},
    {"ln1.hook_scale", false, &scale_of},
    {"ln1.hook_normalized", false, &normalized_of},
    {"hook_q_input", true, [](const Block& in) { return plain::copies(in.at("hook_attn_in"), in.spec().attention.n_heads); }},
    {"hook_k_input", true, [](const Block& in) { return plain::copies(in.at("hook_attn_in"), in.spec().attention.n_kv_heads); }},
    {"hook_v_input", true, [](const Block& in) { return plain::copies(in.at("hook_attn_in"), in.spec().attention.n_kv_heads); }},
    {"attn.hook_v", true, [](const Block& in) { return in.at("attn.hook_k"); }, [](const Block& in) { return in.spec().attention.k_is_v; }},
    {"attn.hook_q_normed", false, [](const Block& in) { return plain::times(plain::normalized(in.at("attn.hook_q"), in.eps()), Block::numbers(in.weights().attention.q_norm)); }},
    {"attn.hook_rot_q", false, [](const Block& in) { return turned(in, "attn.hook_q_normed"); }},
    {"attn.hook_k_normed", false, [](const Block& in) { return plain::times(plain::normalized(in.at("attn.hook_k"), in.eps()), Block::numbers(in.weights().attention.k_norm)); }},
    {"attn.hook_v_normed", false, [](const Block& in) { return plain::normalized(in.at("attn.hook_v"), in.eps()); }},
    {"attn.hook_rot_k", false, [](const Block& in) { return turned(in, "attn.hook_k_normed"); }},
    {"attn.hook_shared_k", true, [](const Block& in) { return in.of(*in.spec().attention.donor, "attn.hook_rot_k"); }},
    {"attn.hook_shared_v", true, [](const Block& in) { return in.of(*in.spec().attention.donor, "attn.hook_v_normed"); }},
    {"attn.hook_attn_scores", false, &scores_of},
    {"attn.hook_pattern", false, [](const Block& in) { return plain::softmax(in.at("attn.hook_attn_scores")); }},
    {"attn.hook_z", false, [](const Block& in) { return plain::mixed(in.at("attn.hook_pattern"), values_of_head(in)); }},
    {"attn.hook_out", false, [](const Block& in) { return plain::sum_parts(in.at("attn.hook_result")); }},
    {"ln1_post.hook_scale", false, &scale_of},
    {"ln1_post.hook_normalized", false, &normalized_of},
    {"hook_attn_out", false, [](const Block& in) { return gained(in, "ln1_post.hook_normalized", in.weights().ln1_post); }},
    {"hook_resid_mid", false, [](const Block& in) { return Values(in.at("hook_resid_pre") + in.at("hook_attn_out")); }},
    {"hook_mlp_in", true, [](const Block& in) { return in.at("hook_resid_mid"); }},
    {"ln2.hook_scale", false, &scale_of},
    {"ln2.hook_normalized", false, &normalized_of},
    {"mlp.hook_post", false, [](const Block& in) { return plain::gated_gelu(in.at("mlp.hook_pre"), in.at("mlp.hook_pre_linear")); }},
    {"ln2_dense_post.hook_scale", false, &scale_of},
    {"ln2_dense_post.hook_normalized", false, &normalized_of},
    {"moe.hook_router_probs", false, [](const Block& in) { return plain::softmax(in.at("moe.hook_router_logits")); }},
    {"moe.hook_expert_indices", true, &chosen_experts},
    {"moe.hook_expert_weights", false, &expert_weights},
    {"ln2_moe.hook_scale", false, &scale_of},
    {"ln2_moe.hook_normalized", false, &normalized_of},
    {"moe.hook_expert_post", false, [](const Block& in) { return plain::gated_gelu(in.at("moe.hook_expert_pre"), in.at("moe.hook_expert_pre_linear")); }},
    {"moe.hook_out", false, [](const Block& in) { return plain::sum_parts(in.at("moe.hook_expert_out")); }},
    {"ln2_moe_post.hook_scale", false, &scale_of},
    {"ln2_moe_post.hook_normalized", false, &normalized_of},
    {"ln2_post.hook_scale", false, &scale_of},
    {"ln2_post.hook_normalized", false, &normalized_of},
    {"hook_mlp_out", false, [](const Block& in) { return gained(in, "ln2_post.hook_normalized", in.weights().ln2_post); }},
    {"ple.hook_input", true, &slice_of_inputs},
    {"ple.hook_post", false, [](const Block& in) { return plain::gated_gelu(in.at("ple.hook_gate"), in.at("ple.hook_input")); }},
    {"ple_post.hook_scale", false, &scale_of},
    {"ple_post.hook_normalized", false, &normalized_of},
    {"hook_ple_out", false, [](const Block& in) { return gained(in, "ple_post.hook_normalized", in.weights().ple->post_norm); }},
    {"hook_resid_post", false, &stream_after},
    {"ln_final.hook_scale", false, &scale_of},
    {"ln_final.hook_normalized", false, &normalized_of},
    {"hook_logits", false, &capped},
});
// clang-format on

class Identities {
 public:
  explicit Identities(HookStudy& study) : study_(study) {}

  void run() {
    record();
    for (const Identity& identity : kIdentities) check(identity);
  }

 private:
  // Everything, past the window where that is short.
  void record() {
    constexpr std::int64_t kLongest = 64, kShort = 12;
    std::int64_t n_pos = kShort;
    for (const auto& layer : study_.model().spec().layers) {
      const auto window = layer.attention.window_tokens.value_or(0);
      if (window < kLongest) n_pos = std::max(n_pos, window + 2);
    }
    hooks::Request request;
    for (const SiteRow at : study_.model().inventory().rows()) {
      request.names.emplace_back(study_.name(at));
    }
    cache_ = study_.model().run(study_input(study_.model(), 2, n_pos), request).cache;
  }

  void check(const Identity& identity) {
    Check check{.name = "identity: " + std::string(identity.row.point().name),
                .tolerance = identity.is_exact ? 0 : rounding(study_.subject()).step,
                .unit = "relative RMS"};
    study_.begin(check.name);
    bool is_checked = false;
    for (const SiteRow at : study_.places_of(identity.row.row())) {
      const auto layer = study_.model().inventory().site(at.site).layer;
      const int last = static_cast<int>(study_.model().spec().n_layers) - 1;
      const Block block(study_.model(), *cache_, layer.value_or(last), identity.row);
      if (!identity.applies(block)) continue;
      is_checked = true;
      hold(check, at, to_xarray(cache_->at(study_.name(at))), identity.want(block));
    }
    if (is_checked) study_.add(check);
  }

  void hold(Check& check, SiteRow at, const xt::xarray<float>& got, const Values& wanted) const {
    if (check.verdict() == Verdict::kFailed) return;
    const bool fits = got.shape() == wanted.shape();
    if (!fits) return study_.note(check, at, INFINITY, "has not the shape of those before it");
    const auto comparison = compare(got, xt::cast<float>(wanted), check.tolerance);
    study_.note(check, at, comparison.relative_rms, "is not what the names before it give");
    if (check.verdict() == Verdict::kFailed) check.place = comparison.first_bad;
  }

  HookStudy& study_;
  std::shared_ptr<hooks::ActivationCache> cache_;
};

}  // namespace

void check_identities(HookStudy& study) { Identities(study).run(); }

}  // namespace bezel::verify
