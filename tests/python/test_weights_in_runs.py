"""The weights give the values of a run, product by product, in float64 on every fixture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support import fixtures
from support.lab import Lab

NAMES = tuple(fixtures.RECIPES)
TOKENS = fixtures.tokens(12)
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


class Run:
    """A model in float64 with every value of one run."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.bridge = lab.bridge(name, path="open", dtype=torch.float64)
        _, self.cache = self.bridge.run_with_cache(TOKENS, lab.names(name))
        self.layers = list(enumerate(self.bridge.cfg.layers))

    def at(self, layer: int, row: str) -> torch.Tensor:
        return self.cache[f"blocks.{layer}.{row}"]

    def normed(self, layer: int, norm: str) -> torch.Tensor:
        """What stands behind a norm, its gain included."""
        gain = getattr(self.bridge, f"w_{norm}")[layer]
        return self.at(layer, f"{norm}.hook_normalized") * gain


@pytest.fixture(scope="module", params=NAMES)
def run(lab: Lab, request: pytest.FixtureRequest) -> Run:
    return Run(lab, request.param)


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want, **CLOSE)


def test_normed_streams_times_the_weights_are_queries_keys_and_values(run: Run) -> None:
    for layer, spec in run.layers:
        x, b = run.normed(layer, "ln1"), run.bridge
        for head in range(spec.attention.n_heads):
            close(x @ b.W_Q[layer][head], run.at(layer, "attn.hook_q")[:, :, head])
            result = run.at(layer, "attn.hook_z")[:, :, head] @ b.W_O[layer, head]
            close(result, run.at(layer, "attn.hook_result")[:, :, head])
        if spec.attention.donor is None:
            for head in range(spec.attention.n_kv_heads):
                close(x @ b.W_K[layer][head], run.at(layer, "attn.hook_k")[:, :, head])
                close(x @ b.W_V[layer][head], run.at(layer, "attn.hook_v")[:, :, head])


def test_the_feed_forwards_weights_give_its_values(run: Run) -> None:
    for layer, _ in run.layers:
        x, b = run.normed(layer, "ln2"), run.bridge
        close(x @ b.W_gate[layer], run.at(layer, "mlp.hook_pre"))
        close(x @ b.W_in[layer], run.at(layer, "mlp.hook_pre_linear"))
        close(run.at(layer, "mlp.hook_post") @ b.W_out[layer], run.at(layer, "mlp.hook_out"))


def test_the_experts_weights_give_their_values(run: Run) -> None:
    b = run.bridge
    for layer, _ in b.blocks_with("moe"):
        x, mid = run.normed(layer, "ln2_moe"), run.at(layer, "hook_resid_mid")
        root = (mid.pow(2).mean(-1, keepdim=True) + b.cfg.norm_eps).sqrt()
        router_in = mid / root * b.router_scales[layer] / b.cfg.d_model**0.5
        close(router_in @ b.W_router[layer], run.at(layer, "moe.hook_router_logits"))
        probs, indices = (
            run.at(layer, "moe.hook_router_probs"),
            run.at(layer, "moe.hook_expert_indices"),
        )
        for batch, pos in np.ndindex(*TOKENS.shape):
            chosen = probs[batch, pos][indices[batch, pos]]
            for k, expert in enumerate(indices[batch, pos].tolist()):
                at = (batch, pos, k)
                close(
                    x[batch, pos] @ b.W_expert_gate[layer, expert],
                    run.at(layer, "moe.hook_expert_pre")[at],
                )
                close(
                    x[batch, pos] @ b.W_expert_in[layer, expert],
                    run.at(layer, "moe.hook_expert_pre_linear")[at],
                )
                weight = chosen[k] / chosen.sum() * b.expert_scales[layer, expert]
                close(weight, run.at(layer, "moe.hook_expert_weights")[at])
                out = run.at(layer, "moe.hook_expert_post")[at] @ b.W_expert_out[layer, expert]
                close(out * weight, run.at(layer, "moe.hook_expert_out")[at])


def test_embedding_and_unembedding_are_the_first_and_the_last_product(run: Run) -> None:
    b = run.bridge
    close(b.W_E[TOKENS] * b.embed_scale, run.cache["hook_embed"])
    normed = run.cache["ln_final.hook_normalized"] * b.w_ln_final
    close(normed @ b.W_U, run.cache["hook_unembed"])


def test_per_layer_embeddings_are_the_tables_and_the_projections(run: Run) -> None:
    b = run.bridge
    if b.cfg.d_ple == 0:
        return
    d_ple, eps = b.cfg.d_ple, b.cfg.norm_eps
    close(b.W_PLE[TOKENS] * d_ple**0.5, run.cache["ple.hook_token"])
    for layer, _ in run.layers:
        raw = run.cache["hook_full_embed"] @ b.W_PLE_context[layer] / b.cfg.d_model**0.5
        root = (raw.pow(2).mean(-1, keepdim=True) + eps).sqrt()
        close(raw / root * b.w_ple_norm, run.cache["ple.hook_context"][:, :, layer])
        stream = run.at(layer, "hook_resid_mid") + run.at(layer, "hook_mlp_out")
        close(stream @ b.W_PLE_gate[layer], run.at(layer, "ple.hook_gate"))
        out = run.at(layer, "ple.hook_post") @ b.W_PLE_out[layer]
        normalized = run.at(layer, "ple_post.hook_normalized")
        close(normalized * run.at(layer, "ple_post.hook_scale"), out)
        close(normalized * b.w_ple_post[layer], run.at(layer, "hook_ple_out"))


def test_post_norm_gains_and_layer_scalars_give_what_is_added(run: Run) -> None:
    for layer, _ in run.layers:
        close(run.normed(layer, "ln1_post"), run.at(layer, "hook_attn_out"))
        close(run.normed(layer, "ln2_post"), run.at(layer, "hook_mlp_out"))
        total = run.at(layer, "hook_resid_mid") + run.at(layer, "hook_mlp_out")
        if run.bridge.cfg.d_ple:
            total = total + run.at(layer, "hook_ple_out")
        close(total * run.bridge.layer_scalars[layer], run.at(layer, "hook_resid_post"))


def source_of(run: Run, layer: int) -> int:
    donor = run.bridge.cfg.layers[layer].attention.donor
    return layer if donor is None else donor


def value_scale(run: Run, layer: int, kv_head: int) -> torch.Tensor:
    """The scale of the weightless norm of each value [batch pos 1]."""
    raw = run.at(source_of(run, layer), "attn.hook_v")[:, :, kv_head]
    return (raw.pow(2).mean(-1, keepdim=True) + run.bridge.cfg.norm_eps).sqrt()


def test_a_heads_result_is_its_pattern_over_the_normed_streams_through_ov(run: Run) -> None:
    for layer, spec in run.layers:
        x = run.normed(source_of(run, layer), "ln1")
        ov, pattern = run.bridge.OV[layer], run.at(layer, "attn.hook_pattern")
        assert ov.shape == (spec.attention.n_heads, x.shape[-1], x.shape[-1])
        assert ov.mdim == spec.attention.d_head
        for head in range(spec.attention.n_heads):
            kv_head = head * spec.attention.n_kv_heads // spec.attention.n_heads
            moved = (x @ ov[head].AB) / value_scale(run, layer, kv_head)
            for batch, q in np.ndindex(*TOKENS.shape):
                want = sum(pattern[batch, head, q, k] * moved[batch, k] for k in range(q + 1))
                close(want, run.at(layer, "attn.hook_result")[batch, q, head])


def test_queries_dot_keys_are_the_normed_streams_through_qk(run: Run) -> None:
    for layer, spec in run.layers:
        source, at = source_of(run, layer), spec.attention
        queries, keys = run.at(layer, "attn.hook_q"), run.at(source, "attn.hook_k")
        x, y = run.normed(layer, "ln1"), run.normed(source, "ln1")
        for head in range(at.n_heads):
            want = queries[:, :, head] @ keys[:, :, head * at.n_kv_heads // at.n_heads].mT
            close(x @ run.bridge.QK[layer, head].AB @ y.mT, want)
