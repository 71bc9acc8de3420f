"""The sums and products that hold between the names, in float64, on every fixture.

Weights come from the checkpoint itself, never from bezel.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from support import checkpoint_forms, fixtures
from support.lab import Lab

NAMES = tuple(fixtures.RECIPES)
TOKENS = fixtures.tokens(20)
EXACT = {"rtol": 1e-12, "atol": 1e-12}


class Model:
    """A fixture's values in float64, and its weights."""

    def __init__(self, lab: Lab, name: str) -> None:
        bridge = lab.bridge(name, path="open", dtype=torch.float64)
        _, self.cache = bridge.run_with_cache(TOKENS, lab.names(name))
        self.names = set(self.cache)
        self.cfg = bridge.cfg
        tensors = checkpoint_forms.load_tensors(lab.folder(name))
        prefix = "model.language_model." if fixtures.RECIPES[name].wrapper != "none" else "model."
        self.weights = {
            key.removeprefix(prefix): value.double()
            for key, value in tensors.items()
            if key.startswith(prefix)
        }

    def at(self, layer: int, row: str) -> torch.Tensor | None:
        name = f"blocks.{layer}.{row}"
        return self.cache[name] if name in self.names else None

    def weight(self, layer: int, name: str) -> torch.Tensor:
        return self.weights[f"layers.{layer}.{name}"]


@pytest.fixture(scope="module", params=NAMES)
def model(lab: Lab, request: pytest.FixtureRequest) -> Model:
    return Model(lab, request.param)


def same(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want, **EXACT)


def test_a_block_hands_its_stream_to_the_next(model: Model) -> None:
    same(model.cache["full_embed"], model.at(0, "hook_resid_pre"))
    for layer in range(model.cfg.n_layers - 1):
        assert torch.equal(
            model.at(layer, "hook_resid_post"), model.at(layer + 1, "hook_resid_pre")
        )


def test_the_stream_is_the_sum_of_what_is_added_times_the_layers_scalar(model: Model) -> None:
    for layer in range(model.cfg.n_layers):
        mid = model.at(layer, "hook_resid_pre") + model.at(layer, "hook_attn_out")
        assert torch.equal(mid, model.at(layer, "hook_resid_mid"))
        after = mid + model.at(layer, "hook_mlp_out")
        ple_out = model.at(layer, "hook_ple_out")
        after = after if ple_out is None else after + ple_out
        same(after * model.weight(layer, "layer_scalar"), model.at(layer, "hook_resid_post"))


def test_the_final_stream_is_the_sum_of_all_parts_with_the_later_scalars(model: Model) -> None:
    parts = [model.cache["full_embed"]]
    for layer in range(model.cfg.n_layers):
        for row in ("hook_attn_out", "hook_mlp_out", "hook_ple_out"):
            part = model.at(layer, row)
            parts += [] if part is None else [part]
        parts = [part * model.weight(layer, "layer_scalar") for part in parts]
    same(torch.stack(parts).sum(0), model.at(model.cfg.n_layers - 1, "hook_resid_post"))


def test_heads_sum_to_the_attentions_output(model: Model) -> None:
    for layer in range(model.cfg.n_layers):
        same(model.at(layer, "attn.hook_result").sum(2), model.at(layer, "attn.hook_out"))


def test_experts_sum_to_their_output(model: Model) -> None:
    for layer in range(model.cfg.n_layers):
        if (out := model.at(layer, "moe.hook_out")) is not None:
            same(model.at(layer, "moe.hook_expert_out").sum(2), out)
    assert (model.at(0, "moe.hook_out") is not None) == (model.cfg.layers[0].moe is not None)


def test_the_pattern_is_the_softmax_of_the_scores_and_rows_sum_to_one(model: Model) -> None:
    for layer in range(model.cfg.n_layers):
        pattern = model.at(layer, "attn.hook_pattern")
        same(model.at(layer, "attn.hook_attn_scores").softmax(-1), pattern)
        same(pattern.sum(-1), torch.ones(pattern.shape[:-1], dtype=torch.float64))
        assert not pattern.triu(1).any()


def test_z_is_the_pattern_times_the_values(model: Model) -> None:
    for layer in range(model.cfg.n_layers):
        pattern = model.at(layer, "attn.hook_pattern")
        values = model.at(layer, "attn.hook_v_normed")
        values = model.at(layer, "attn.hook_shared_v") if values is None else values
        values = values.repeat_interleave(pattern.shape[1] // values.shape[2], dim=2)
        same(torch.einsum("bhqk,bkhd->bqhd", pattern, values), model.at(layer, "attn.hook_z"))


def test_sharers_read_what_their_donor_made(model: Model) -> None:
    for layer, spec in enumerate(model.cfg.layers):
        donor = spec.attention.donor
        if donor is not None:
            for shared, own in (("shared_k", "rot_k"), ("shared_v", "v_normed")):
                got = model.at(layer, f"attn.hook_{shared}")
                assert torch.equal(got, model.at(donor, f"attn.hook_{own}"))


def norm_inputs(model: Model, layer: int) -> dict[str, torch.Tensor | None]:
    """What stands before each norm of a block, by the prefix of its names."""
    mid, normalized = model.at(layer, "hook_resid_mid"), "ln2_{}_post.hook_normalized"
    inputs = {
        "ln1": model.at(layer, "hook_resid_pre"),
        "ln1_post": model.at(layer, "attn.hook_out"),
        "ln2": mid,
        "ln2_post": model.at(layer, "mlp.hook_out"),
    }
    if model.at(layer, "moe.hook_out") is not None:
        inputs |= {
            "ln2_dense_post": model.at(layer, "mlp.hook_out"),
            "ln2_moe": mid,
            "ln2_moe_post": model.at(layer, "moe.hook_out"),
            "ln2_post": model.at(layer, normalized.format("dense"))
            * model.weight(layer, "post_feedforward_layernorm_1.weight")
            + model.at(layer, normalized.format("moe"))
            * model.weight(layer, "post_feedforward_layernorm_2.weight"),
        }
    if (post := model.at(layer, "ple.hook_post")) is not None:
        inputs["ple_post"] = post @ model.weight(layer, "per_layer_projection.weight").T
    return inputs


def check_norm(scale: torch.Tensor, normalized: torch.Tensor, x: torch.Tensor, eps: float) -> None:
    same(normalized * scale, x)
    same(scale, (x.pow(2).mean(-1, keepdim=True) + eps).sqrt())


def test_scale_times_normalized_is_the_input_of_each_norm(model: Model) -> None:
    eps = model.cfg.norm_eps
    for layer in range(model.cfg.n_layers):
        for norm, x in norm_inputs(model, layer).items():
            pair = [model.at(layer, f"{norm}.hook_{part}") for part in ("scale", "normalized")]
            check_norm(*pair, x, eps)
    last = model.at(model.cfg.n_layers - 1, "hook_resid_post")
    check_norm(model.cache["scale"], model.cache["normalized"], last, eps)


POST_NORMS = {
    "hook_attn_out": ("ln1_post", "post_attention_layernorm"),
    "hook_mlp_out": ("ln2_post", "post_feedforward_layernorm"),
    "hook_ple_out": ("ple_post", "post_per_layer_input_norm"),
}


def test_what_is_added_is_its_post_norm_times_the_gain(model: Model) -> None:
    for layer in range(model.cfg.n_layers):
        for out, (norm, weight) in POST_NORMS.items():
            if (added := model.at(layer, out)) is not None:
                gain = model.weight(layer, f"{weight}.weight")
                same(model.at(layer, f"{norm}.hook_normalized") * gain, added)


def test_per_layer_inputs_are_both_parts_and_each_block_takes_its_own(model: Model) -> None:
    if model.cfg.d_ple == 0:
        assert "ple.hook_inputs" not in model.names
        return
    inputs = model.cache["ple.hook_inputs"]
    parts = model.cache["ple.hook_token"] + model.cache["ple.hook_context"]
    same(inputs, parts * 0.5**0.5)
    for layer in range(model.cfg.n_layers):
        assert torch.equal(model.at(layer, "ple.hook_input"), inputs[:, :, layer])


def test_logits_are_the_capped_unembedding_of_the_final_norm(model: Model) -> None:
    normed = model.cache["normalized"] * model.weights["norm.weight"]
    raw = model.cache["hook_unembed"]
    same(normed @ model.weights["embed_tokens.weight"].T, raw)
    cap = model.cfg.softcap
    same(cap * (raw / cap).tanh() if cap else raw, model.cache["hook_logits"])


def test_router_weights_are_the_chosen_probabilities_renormalised_and_scaled(model: Model) -> None:
    for layer in range(model.cfg.n_layers):
        if (logits := model.at(layer, "moe.hook_router_logits")) is None:
            continue
        probs = model.at(layer, "moe.hook_router_probs")
        same(logits.softmax(-1), probs)
        top, indices = probs.topk(model.cfg.layers[layer].moe.n_chosen)
        assert torch.equal(indices, model.at(layer, "moe.hook_expert_indices"))
        scale = model.weight(layer, "router.per_expert_scale")[indices]
        weights: Any = top / top.sum(-1, keepdim=True) * scale
        same(weights, model.at(layer, "moe.hook_expert_weights"))
