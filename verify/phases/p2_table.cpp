// The table of identities, computed in plain loops.
#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "bezel/verify/phases/p2_block.h"

namespace bezel::verify {
namespace {

using plain::Values;

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

Values normalized_of(const Block& in) {
  const auto scale = std::string(in.norm()) + ".hook_scale";
  return norm_input(in) / (in.norm() == "ln_final" ? in.of_model(scale) : in.at(scale));
}

Values stream_before(const Block& in) {
  return in.layer() == 0 ? in.of_model("hook_full_embed")
                         : in.of(in.layer() - 1, "hook_resid_post");
}

Values stream_after(const Block& in) {
  Values sum = in.at("hook_resid_mid") + in.at("hook_mlp_out");
  if (in.model_spec().d_ple > 0) sum += in.at("hook_ple_out");
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

// The chosen experts of each token, highest probability first; among equals as the model has them.
Values chosen_experts(const Block& in) {
  const auto probs = in.at("moe.hook_router_probs");
  Values chosen = in.at("moe.hook_expert_indices");
  const std::size_t n_experts = probs.shape(2), n_chosen = chosen.shape(2);
  std::vector<std::size_t> order(n_experts);
  for (std::size_t token = 0; token < probs.size() / n_experts; ++token) {
    const double* of_token = probs.data() + token * n_experts;
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, [&](auto a, auto b) { return of_token[a] > of_token[b]; });
    for (std::size_t i = 0; i < n_chosen; ++i) {
      double& expert = chosen.flat(token * n_chosen + i);
      const bool is_equal = of_token[static_cast<std::size_t>(expert)] == of_token[order[i]];
      if (!is_equal) expert = static_cast<double>(order[i]);
    }
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

// Each head from its own copy of the stream: rows of q, then k, then v stand in one matrix, and the
// values come from the rows of k where K == V.
Values projected(const Block& in, const char* copies, std::int64_t first_row) {
  const auto& w = in.weights();
  const auto x = plain::times(plain::normalized(in.at(copies), in.eps()), Block::numbers(w.ln1));
  const auto n_rows = static_cast<std::int64_t>(x.shape(2)) * in.spec().attention.d_head;
  return plain::linear_by_head(x, Block::numbers(w.attention.qkv.narrow(0, first_row, n_rows)));
}

Values queries(const Block& in) { return projected(in, "hook_q_input", 0); }

Values keys(const Block& in) {
  const auto& attention = in.spec().attention;
  return projected(in, "hook_k_input", attention.n_heads * attention.d_head);
}

Values values(const Block& in) {
  const auto& attention = in.spec().attention;
  const auto n_before = attention.n_heads + (attention.k_is_v ? 0 : attention.n_kv_heads);
  return projected(in, "hook_v_input", n_before * attention.d_head);
}

// An edit of ln1 reaches the projections, and the copies of the stream show nothing of it.
bool is_ln1_kept(const Block& in) {
  return !in.is_edited("ln1.hook_scale") && !in.is_edited("ln1.hook_normalized");
}

// Where K == V, an edit of the keys is one of the values.
bool are_values_of_copies(const Block& in) {
  return is_ln1_kept(in) && !(in.spec().attention.k_is_v && in.is_edited("attn.hook_k"));
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
    {"attn.hook_q", false, &queries, &is_ln1_kept},
    {"attn.hook_k", false, &keys, &is_ln1_kept},
    {"attn.hook_v", false, &values, &are_values_of_copies},
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

}  // namespace

std::span<const Identity> identities() { return kIdentities; }

}  // namespace bezel::verify
