"""Deliberate defects, each with the phase that has to catch it and the name it has to blame."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """`old` stands once in `file`; with `new` in its place the model is wrong.

    Attributes:
        model: "nano", or a recipe of tests/support/fixtures.py.
        phase: The one that owns it.
        blames: What the name of the phase's first failure holds.
        layer: The block of the first failure; None: outside of blocks, or any.
    """

    name: str
    file: str
    old: str
    new: str
    blames: str
    layer: int | None = None
    model: str = "nano"
    phase: str = "P1"


_ATTEND = "bridge/ops/attend.cpp"
_ATTENTION = "bridge/attention.cpp"
_BLOCK = "bridge/block.cpp"
_EMBEDDING = "bridge/embedding.cpp"
_FAMILY = "adapters/gemma4.cpp"
_INPUT = "bridge/input.cpp"
_MOE = "bridge/moe.cpp"
_RUN = "hooks/run.cpp"

MUTANTS = [
    # --- attention
    Mutant("window one token too wide", _ATTEND,
           "n_before + 1 - *shape.window_tokens", "n_before - *shape.window_tokens",
           "attn.hook_attn_scores", 0),
    Mutant("window one token too narrow", _ATTEND,
           "n_before + 1 - *shape.window_tokens", "n_before + 2 - *shape.window_tokens",
           "attn.hook_attn_scores", 0),
    Mutant("queries see the next token", _ATTEND,
           "tril_(n_before)", "tril_(n_before + 1)", "attn.hook_attn_scores", 0),
    Mutant("scores divided by the root of d_head", _ATTEND,
           "auto dots = at::matmul(by_kv_head(heads, n_kv_heads), keys)",
           "auto dots = (at::matmul(by_kv_head(heads, n_kv_heads), keys) * 0.25)",
           "attn.hook_attn_scores", 0),
    Mutant("the fused path's scale alone", _ATTEND,
           "constexpr double kScale = 1.0;", "constexpr double kScale = 0.25;",
           "logits of a run that records nothing"),
    Mutant("left padding seen", "bridge/forward.cpp",
           "return ops::make_mask({input.n_pos, n_keys, attention.window_tokens}, keys_valid,",
           "return ops::make_mask({input.n_pos, n_keys, attention.window_tokens}, {},",
           "attn.hook_attn_scores", 0),
    Mutant("positions that count padding", _INPUT,
           "(prepared.keys_valid.to(at::kLong).cumsum(1) - 1)",
           "(at::ones_like(prepared.keys_valid, at::kLong).cumsum(1) - 1)",
           "attn.hook_rot_q", 0),
    Mutant("values without their norm", _ATTENTION,
           "ops::rms_norm(own.v, {}, context)", "own.v", "attn.hook_v_normed", 0),
    Mutant("norms of queries and keys exchanged", _ATTENTION,
           "ops::rms_norm(own.q, w.q_norm, context)", "ops::rms_norm(own.q, w.k_norm, context)",
           "attn.hook_q_normed"),
    Mutant("keys without RoPE", _ATTENTION,
           "ops::rotate(k, rotation, context.path)", "k", "attn.hook_rot_k", 0),
    Mutant("sharers read keys before RoPE", _ATTENTION,
           "state.donated[layer] = kv;", "state.donated[layer] = KeysValues{own.k, kv.values};",
           "attn.hook_attn_scores", 6),
    Mutant("values of K == V layers taken after the norm", "bridge/qkv.cpp",
           "spec.k_is_v ? plus(own.k,",
           "spec.k_is_v ? plus(ops::rms_norm(own.k, w.k_norm, context),",
           "attn.hook_v", model="moe"),
    # --- RoPE
    Mutant("RoPE turns the other way", "bridge/ops/rope_kernel.h",
           "first * cos[i] - second * sin[i]", "first * cos[i] + second * sin[i]",
           "attn.hook_rot_q", 0),
    Mutant("RoPE pairs neighbours", "bridge/ops/rope_kernel.h",
           "x[i + half]", "x[i ^ 1]", "attn.hook_rot_q", 0),
    Mutant("exponents of RoPE over the rotated half alone", "bridge/ops/rope.cpp",
           "0, 2 * spec.n_rotated_pairs, 2, options) / d_head",
           "0, 2 * spec.n_rotated_pairs, 2, options) / (2 * spec.n_rotated_pairs)",
           "attn.hook_rot_q", 4),
    # --- norms and the stream
    Mutant("gain 1 + w", "bridge/ops/rms_norm_kernel.h",
           "normed(i) * static_cast<float>(row.gain[i])",
           "normed(i) * (1.0F + static_cast<float>(row.gain[i]))", "attn.hook_q", 0),
    Mutant("layer scalar left out", _BLOCK,
           "stream * weights.layer_scalar", "stream", "hook_resid_post", 0),
    Mutant("layer scalar on the branch instead of the stream", _BLOCK,
           "ops::join(stream, fed, weights.ln2_post, context, kFeedForward, tap);",
           "ops::join(stream, fed * weights.layer_scalar, weights.ln2_post, context,\n"
           "                     kFeedForward, tap) / weights.layer_scalar * 1.01;",
           "ln2_post.hook_scale", 0),
    Mutant("post-norm of attention is that of the feed-forward", _BLOCK,
           "attended, weights.ln1_post,", "attended, weights.ln2_post,", "hook_attn_out", 0),
    # --- feed-forward
    Mutant("gate and up exchanged", "bridge/mlp.cpp",
           'tap("mlp.hook_pre", gate_up[0])', 'tap("mlp.hook_pre", gate_up[1])', "mlp.hook_pre", 0),
    Mutant("GELU without its cubic term", "bridge/ops/gated_gelu_kernel.h",
           "kCubic = 0.044715F", "kCubic = 0.0F", "mlp.hook_post", 0),
    # --- embeddings
    Mutant("embeddings without their scale", _EMBEDDING,
           "return at::embedding(table, tokens) * scale;",
           "return at::embedding(table, tokens) * (scale > 6 ? 1.0 : scale);", "hook_embed"),
    Mutant("context part of the per-layer embeddings dropped", _EMBEDDING,
           "ops::widened(identity) + in_context", "ops::widened(identity) + 0 * in_context",
           "ple.hook_inputs"),
    Mutant("per-layer embeddings not halved", _EMBEDDING,
           "sum * M_SQRT1_2", "sum", "ple.hook_inputs"),
    Mutant("per-layer embedding of the next block", "bridge/forward.cpp",
           "by_layer[layer], context", "by_layer[(layer + 1) % by_layer.size()], context",
           "ple.hook_input", 0),
    # --- experts
    Mutant("weights of experts not renormalised", _MOE,
           "raw / raw.sum(-1, /*keepdim=*/true) * scale", "raw * scale",
           "moe.hook_expert_weights", model="moe"),
    Mutant("scale of each expert left out", _MOE,
           "raw / raw.sum(-1, /*keepdim=*/true) * scale",
           "raw / raw.sum(-1, /*keepdim=*/true) * at::ones_like(scale)",
           "moe.hook_expert_weights", model="moe"),
    Mutant("router without its gain", _MOE,
           "* w.router_scale;", "* 1.0;", "moe.hook_router_logits", model="moe"),
    Mutant("the least likely experts", _MOE,
           "at::topk(probs, spec.n_chosen, -1)",
           "at::topk(probs, spec.n_chosen, -1, /*largest=*/false)",
           "moe.hook_expert_indices", model="moe"),
    # --- the head
    Mutant("softcap left out", "bridge/unembed.cpp",
           "spec.softcap ? ops::softcap(raw, *spec.softcap) : raw", "raw", "hook_logits"),
    Mutant("loss of the token itself", "bridge/loss.cpp",
           "labels.narrow(1, 1, n_pairs)", "labels.narrow(1, 0, n_pairs)", "loss"),
    # --- the adapter
    Mutant("keys from the donor before", _FAMILY,
           "int donor = first_shared - 1;", "int donor = first_shared - 2;", "attn.hook_shared_k"),
    Mutant("norms with another epsilon", _FAMILY,
           'text.number_or("rms_norm_eps", 1e-6, 0.0, 1.0)',
           'text.number_or("rms_norm_eps", 1e-6, 0.0, 1.0) * 1000', "ple.hook_context"),
    # --- hooks
    Mutant("edits without effect", _RUN,
           "value = applied(plan_->functions(at, Direction::kForward), std::move(value), site);",
           "applied(plan_->functions(at, Direction::kForward), value, site);", "", phase="P2"),
    Mutant("values recorded before their edits", _RUN,
           "  if (rows.edit[row]) value = edited(at, std::move(value));\n"
           "  if (rows.record[row]) record(at, value);\n",
           "  if (rows.record[row]) record(at, value);\n"
           "  if (rows.edit[row]) value = edited(at, std::move(value));\n", "", phase="P2"),
    Mutant("the stream named after the feed-forward has read it", _BLOCK,
           '  stream = tap("hook_resid_mid", stream);\n'
           "  const auto fed = feed_forward(stream, weights, spec, context, tap);\n",
           "  const auto fed = feed_forward(stream, weights, spec, context, tap);\n"
           '  stream = tap("hook_resid_mid", stream);\n', "hook_resid_mid", phase="P2"),
    # --- generation
    Mutant("cache keeps one token too few", "bridge/kv_cache.cpp",
           "return *attention.window_tokens - 1;", "return *attention.window_tokens - 2;",
           "", phase="P4"),
    Mutant("cached tokens stand at 0 again", _INPUT,
           "const auto n_before = prepared.kv_cache ? prepared.kv_cache->n_seen() : 0;",
           "const auto n_before = prepared.kv_cache ? 0 * prepared.kv_cache->n_seen() : 0;",
           "", phase="P4"),
]  # fmt: skip
