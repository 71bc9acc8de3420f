"""Deliberate defects, each with the phase that has to catch it and the name it has to blame."""

from __future__ import annotations

from dataclasses import dataclass

LOAD = "load"
NANO_WITH_ENDS = "nano with three ends"


@dataclass(frozen=True)
class Mutant:
    """`old` stands once in `file`; with `new` in its place the model is wrong.

    Attributes:
        blames: What the name of the first failure, or the refusal, holds.
        layer: The block of the first failure; None: outside of blocks, or any.
        model: "nano", NANO_WITH_ENDS, or a recipe of tests/support/fixtures.py or of
            media_fixtures.py.
        phase: The one that owns it; LOAD where the files are refused.
        also: A second change, (file, old, new), where one alone changes no value.
    """

    name: str
    file: str
    old: str
    new: str
    blames: str
    layer: int | None = None
    model: str = "nano"
    phase: str = "P1"
    also: tuple[str, str, str] | None = None

    @property
    def changes(self) -> list[tuple[str, str, str]]:
        """Each as (file, old, new)."""
        return [(self.file, self.old, self.new), *([self.also] if self.also else [])]


_ATTEND = "bridge/ops/attend.cpp"
_ATTENTION = "bridge/attention.cpp"
_BLOCK = "bridge/block.cpp"
_EMBEDDING = "bridge/embedding.cpp"
_FAMILY = "adapters/gemma4.cpp"
_GENERATE = "bridge/generate.cpp"
_INPUT = "bridge/input.cpp"
_MOE = "bridge/moe.cpp"
_RUN = "hooks/run.cpp"
_VISION = "bridge/vision/encoder.cpp"
_CHUNKS = "bridge/audio/chunked_attention.cpp"
_CONFORMER = "bridge/audio/conformer.cpp"

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
           "attn.hook_shared_k", 6),
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
    Mutant("RoPE pairs (i, i + the number of pairs that turn)", "bridge/ops/rope_kernel.h",
           "x[i + half]", "x[d == 64 ? (i + 8) % d : i + half]", "attn.hook_rot_q", 4),
    Mutant("thetas of sliding and full layers exchanged", _FAMILY,
           'const double theta = fields.number("rope_theta", kSmallest);',
           'const double theta = text.object("rope_parameters").object(full ? kSliding : kFull)\n'
           '                           .number("rope_theta", kSmallest);', "attn.hook_rot_q", 0),
    Mutant("exponents of RoPE over the rotated half alone", "bridge/ops/rope.cpp",
           "0, 2 * spec.n_rotated_pairs, 2, options) / d_head",
           "0, 2 * spec.n_rotated_pairs, 2, options) / (2 * spec.n_rotated_pairs)",
           "attn.hook_rot_q", 4),
    # --- norms and the stream
    Mutant("gain 1 + w", "bridge/ops/rms_norm_kernel.h",
           "normed(i) * static_cast<float>(row.gain[i])",
           "normed(i) * (1.0F + static_cast<float>(row.gain[i]))", "ple.hook_context"),
    Mutant("layer scalar left out", _BLOCK,
           "stream * weights.layer_scalar", "stream", "hook_resid_post", 0),
    Mutant("layer scalar on the last branch instead of the stream", _BLOCK,
           "  if (weights.ple) {", "  const auto before = stream;\n  if (weights.ple) {",
           "hook_resid_post", 0,
           also=(_BLOCK, "stream * weights.layer_scalar",
                 "before + (stream - before) * weights.layer_scalar")),
    Mutant("post-norm of attention is that of the feed-forward", _BLOCK,
           "attended, weights.ln1_post,", "attended, weights.ln2_post,", "hook_attn_out", 0),
    # --- feed-forward
    Mutant("gate and up exchanged", "bridge/mlp.cpp",
           'tap("mlp.hook_pre", gate_up[0])', 'tap("mlp.hook_pre", gate_up[1])', "mlp.hook_pre", 0),
    Mutant("GELU without its cubic term", "bridge/ops/gated_gelu_kernel.h",
           "kCubic = 0.044715F", "kCubic = 0.0F", "mlp.hook_post", 0),
    Mutant("the second half of MLPs of double width unused", "bridge/mlp.cpp",
           'tap("mlp.hook_post", ops::gated_gelu(gate, up, context.path));',
           'tap("mlp.hook_post", ops::gated_gelu(gate, up, context.path));\n'
           "  if (post.size(-1) > 192) post.narrow(-1, 192, 192).zero_();", "mlp.hook_post", 6),
    Mutant("double width ignored", _FAMILY,
           "if (wide && layer.attention.donor) layer.mlp.d_mlp *= 2;",
           "if (wide && layer.attention.donor) layer.mlp.d_mlp *= 1;",
           "layers.6.mlp", phase=LOAD),
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
           '  stream = tap("hook_resid_mid", stream);\n', "identity: hook_mlp_in", 0, phase="P2"),
    Mutant("an activation named after it was used", "bridge/mlp.cpp",
           '  const auto post = tap("mlp.hook_post", ops::gated_gelu(gate, up, context.path));\n'
           '  return tap("mlp.hook_out",\n'
           "             ops::linear(post, weights.down, ops::clip_of(weights.clips, 2), "
           "context.path));\n",
           "  const auto post = ops::gated_gelu(gate, up, context.path);\n"
           "  const auto out =\n"
           "      ops::linear(post, weights.down, ops::clip_of(weights.clips, 2), context.path);\n"
           '  tap("mlp.hook_post", post);\n'
           '  return tap("mlp.hook_out", out);\n', "an edit acts: mlp.hook_post", 0, phase="P2"),
    # --- weights
    Mutant("keys and values exchanged where they are read", "adapters/load.cpp",
           "const TensorInfo* stored = take(prefix_ + names.parts[i]);",
           "const TensorInfo* stored =\n"
           "          take(prefix_ + names.parts[i == 0 ? 0 : slot.rows.size() - i]);",
           "joint projections = the files' separate ones", 0, phase="P3"),
    Mutant("a sharer reads another donor", _FAMILY,
           "int donor = first_shared - 1;", "int donor = first_shared - 2;",
           "donors and sharers", 6, phase="P3"),
    Mutant("a donor gives away keys before RoPE", _ATTENTION,
           "state.donated[layer] = kv;", "state.donated[layer] = KeysValues{own.k, kv.values};",
           "keys and values that sharers consume = their donors'", 6, phase="P3"),
    # --- generation
    Mutant("cache keeps one token too few", "bridge/kv_cache.cpp",
           "return *attention.window_tokens - 1;", "return *attention.window_tokens - 2;",
           "", phase="P4"),
    # The mask of a step hides what the cache should not have kept, until it too is one too wide.
    Mutant("cache keeps the window, and steps see it", "bridge/kv_cache.cpp",
           "return *attention.window_tokens - 1;", "return *attention.window_tokens;",
           "logits with a KV cache", phase="P4",
           also=(_ATTEND, "n_before + 1 - *shape.window_tokens",
                 "n_before + (n_before > 0 ? 0 : 1) - *shape.window_tokens")),
    Mutant("a new token stands where the last one stood", _GENERATE,
           "positions_.narrow(1, -1, 1) + 1", "positions_.narrow(1, -1, 1) + 0",
           "logits with a KV cache", phase="P4"),
    Mutant("the end of one row ends all", _GENERATE,
           "end(at::isin(tokens, eos_));", "end(at::isin(tokens, eos_).any().expand_as(open_));",
           "", phase="P4", model=NANO_WITH_ENDS),
    Mutant("a row that ended goes on", _GENERATE,
           "end(at::isin(tokens, eos_));", "end(at::zeros_like(open_));",
           "", phase="P4", model=NANO_WITH_ENDS),
    Mutant("list of ends truncated", "adapters/load.cpp",
           "spec.eos_token_ids = generation->eos_token_ids;",
           "spec.eos_token_ids = {generation->eos_token_ids.front()};",
           "", phase="P4", model=NANO_WITH_ENDS),
    Mutant("a finished row says what it would have said", _GENERATE,
           "at::where(open_, chosen, bridge_->spec().pad_token_id.value_or(0))", "chosen",
           "", phase="P4", model=NANO_WITH_ENDS),
    # --- images and videos
    Mutant("pixels from 0 to 2", _VISION,
           "2 * (images.pixels - 0.5)", "2 * images.pixels",
           "vision_encoder.hook_patches", phase="P7", model="sight_e2b"),
    Mutant("columns of patches placed by their rows", _VISION,
           "at::embedding(tables.select(0, 0), places.select(-1, 0))",
           "at::embedding(tables.select(0, 0), places.select(-1, 1))",
           "vision_encoder.hook_pos_embed", phase="P7", model="sight_e2b"),
    Mutant("padding patches seen", _VISION,
           "at::full(visible.sizes(), hidden, model)",
           "at::full(visible.sizes(), 0 * hidden, model)",
           "vision_encoder.blocks.0.attn.hook_attn_scores", 0, phase="P7", model="sight_e2b"),
    Mutant("patches turned by their columns alone", _VISION,
           "images.positions.clamp_min(0), attention.rope",
           "images.positions.clamp_min(0).select(-1, 0).unsqueeze(-1).expand({-1, -1, 2}), "
           "attention.rope",
           "vision_encoder.blocks.0.attn.hook_rot_q", 0, phase="P7", model="sight_e2b"),
    Mutant("soft tokens without the root of their width", _VISION,
           " * std::sqrt(static_cast<double>(d_vision))", " * (d_vision > 0 ? std::sqrt(1.0) : 0)",
           "vision_encoder.hook_pooled", phase="P7", model="sight_e2b"),
    Mutant("patches pooled in the order of the input", "bridge/media.cpp",
           "patch.index_select(0, order).unflatten", "patch.unflatten",
           "vision_encoder.hook_pooled", phase="P7", model="sight_e2b"),
    Mutant("features that are not standardised", _VISION,
           "if (own.standardises)", "if (own.standardises && own.n_layers < 0)",
           "vision_encoder.hook_out", phase="P7", model="sight_moe"),
    Mutant("an embedder without its bias", "bridge/vision/embedder.cpp",
           "ops::linear(normed, weights.dense, context.path) + weights.dense_bias",
           "ops::linear(normed, weights.dense, context.path)",
           "vision_embedder.hook_dense", phase="P7", model="unified_media"),
    Mutant("images that attend one way", "bridge/forward.cpp",
           "attention.window_tokens ? input.blocks : at::Tensor()", "at::Tensor()",
           "blocks.0.attn.hook_attn_scores", 0, phase="P7", model="sight_moe"),
    Mutant("images that attend both ways in full layers", "bridge/forward.cpp",
           "attention.window_tokens ? input.blocks : at::Tensor()", "input.blocks",
           "blocks.1.attn.hook_attn_scores", 1, phase="P7", model="sight_moe"),
    Mutant("media tokens looked up by their ids", _INPUT,
           "prepared.lookup_tokens = without_media(prepared.tokens, by_id, spec);",
           "prepared.lookup_tokens = prepared.tokens;",
           "hook_embed", phase="P7", model="sight_e2b"),
    # --- sound
    Mutant("convolutions that hear padding", "bridge/audio/encoder.cpp",
           "x * valid.to(x.scalar_type()).unsqueeze(1).unsqueeze(-1)",
           "x * at::ones_like(valid).to(x.scalar_type()).unsqueeze(1).unsqueeze(-1)",
           "audio_encoder.subsample.", phase="P8", model="sound"),
    Mutant("half feed-forwards of full weight", _CONFORMER,
           "normed(down, w.post_norm, kNormEps, path) * spec.residual_weight",
           "normed(down, w.post_norm, kNormEps, path)",
           "audio_encoder.blocks.0.ff1.hook_out", 0, phase="P8", model="sound"),
    Mutant("a stream that is not clamped", _CONFORMER,
           "return at::clamp(x, -bound, bound);", "return at::clamp(x, -1e4 * bound, 1e4 * bound);",
           "audio_encoder.blocks.0.", 0, phase="P8", model="sound"),
    Mutant("frames without their distances", _CHUNKS,
           "at::matmul(queries, keys) + shifted(by_distance, spec)",
           "at::matmul(queries, keys) + 0 * shifted(by_distance, spec)",
           "audio_encoder.blocks.0.attn.hook_attn_scores", 0, phase="P8", model="sound"),
    Mutant("queries without per_dim_scale", _CHUNKS,
           "q_scale * at::softplus(w.per_dim_scale)", "q_scale",
           "audio_encoder.blocks.0.attn.hook_attn_scores", 0, phase="P8", model="sound"),
    Mutant("scores of sound without their cap", _CHUNKS,
           "at::tanh(sum / spec.softcap) * spec.softcap", "sum",
           "audio_encoder.blocks.0.attn.hook_attn_scores", 0, phase="P8", model="sound"),
    Mutant("a context of sound one frame too wide", _CHUNKS,
           "distance < spec.n_past)", "distance <= spec.n_past)",
           "audio_encoder.blocks.0.attn.hook_attn_scores", 0, phase="P8", model="sound"),
    Mutant("a convolution that hears the future", _CONFORMER,
           "{spec.conv_width - 1, 0}", "{0, spec.conv_width - 1}",
           "audio_encoder.blocks.0.conv.hook_conv", 0, phase="P8", model="sound"),
    Mutant("the last norm of a conformer left out", _CONFORMER,
           "normed(clamped(stream, spec), weights.norm_out, kNormEps, context.path)",
           "clamped(stream, spec)",
           "audio_encoder.blocks.0.hook_resid_post", 0, phase="P8", model="sound"),
]  # fmt: skip
