"""The weights that a Bridge hands out are the checkpoint's, by TransformerLens's names and axes.

Compared with the tensors as safetensors reads them, in every form of every fixture.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import bezel
from bezel.errors import ArgumentError, NoSuchWeightError
from support import checkpoint_forms, fixtures
from support.lab import Lab

NAMES = tuple(fixtures.RECIPES)
TOKENS = fixtures.tokens(12)
CASES = [(name, form) for name in NAMES for form in ("saved", *checkpoint_forms.forms_of(name))]


class Checkpoint:
    """The tensors of a text model by their names within it, as transformers saved them."""

    def __init__(self, lab: Lab, name: str) -> None:
        tensors = checkpoint_forms.load_tensors(lab.folder(name))
        prefix = "model.language_model." if fixtures.RECIPES[name].wrapper != "none" else "model."
        self.tensors = {
            key.removeprefix(prefix): value
            for key, value in tensors.items()
            if key.startswith(prefix)
        }

    def at(self, layer: int, name: str) -> torch.Tensor:
        return self.tensors[f"layers.{layer}.{name}"]

    def has(self, layer: int, name: str) -> bool:
        return f"layers.{layer}.{name}" in self.tensors


def heads(matrix: torch.Tensor, n_heads: int) -> torch.Tensor:
    """A projection [heads * d_head, d_model] as [head d_model d_head], one row at a time."""
    d_head = matrix.shape[0] // n_heads
    out = torch.empty(n_heads, matrix.shape[1], d_head)
    for row in range(matrix.shape[0]):
        out[row // d_head, :, row % d_head] = matrix[row]
    return out


def out_heads(matrix: torch.Tensor, n_heads: int) -> torch.Tensor:
    """o_proj [d_model, heads * d_head] as [head d_head d_model], one column at a time."""
    d_head = matrix.shape[1] // n_heads
    out = torch.empty(n_heads, d_head, matrix.shape[0])
    for column in range(matrix.shape[1]):
        out[column // d_head, column % d_head] = matrix[:, column]
    return out


def transposed(name: str) -> Callable[[Checkpoint, int], torch.Tensor]:
    return lambda checkpoint, layer: checkpoint.at(layer, name).mT


def plain(name: str) -> Callable[[Checkpoint, int], torch.Tensor]:
    return lambda checkpoint, layer: checkpoint.at(layer, name)


def expert_half(half: int) -> Callable[[Checkpoint, int], torch.Tensor]:
    def read(checkpoint: Checkpoint, layer: int) -> torch.Tensor:
        joint = checkpoint.at(layer, "experts.gate_up_proj")
        n = joint.shape[1] // 2
        return joint[:, half * n : (half + 1) * n].mT

    return read


BY_LAYER: dict[str, Callable[[Checkpoint, int], torch.Tensor]] = {
    "W_gate": transposed("mlp.gate_proj.weight"),
    "W_in": transposed("mlp.up_proj.weight"),
    "W_out": transposed("mlp.down_proj.weight"),
    "w_ln1": plain("input_layernorm.weight"),
    "w_ln1_post": plain("post_attention_layernorm.weight"),
    "w_ln2": plain("pre_feedforward_layernorm.weight"),
    "w_ln2_post": plain("post_feedforward_layernorm.weight"),
    "w_q_norm": plain("self_attn.q_norm.weight"),
    "layer_scalars": lambda checkpoint, layer: checkpoint.at(layer, "layer_scalar")[0],
}
OF_MOE: dict[str, Callable[[Checkpoint, int], torch.Tensor]] = {
    "W_router": transposed("router.proj.weight"),
    "router_scales": plain("router.scale"),
    "expert_scales": plain("router.per_expert_scale"),
    "W_expert_gate": expert_half(0),
    "W_expert_in": expert_half(1),
    "W_expert_out": transposed("experts.down_proj"),
    "w_ln2_dense_post": plain("post_feedforward_layernorm_1.weight"),
    "w_ln2_moe": plain("pre_feedforward_layernorm_2.weight"),
    "w_ln2_moe_post": plain("post_feedforward_layernorm_2.weight"),
}
OF_PLE: dict[str, Callable[[Checkpoint, int], torch.Tensor]] = {
    "W_PLE_gate": transposed("per_layer_input_gate.weight"),
    "W_PLE_out": transposed("per_layer_projection.weight"),
    "w_ple_post": plain("post_per_layer_input_norm.weight"),
}
OF_MODEL_PLE = ("W_PLE", "W_PLE_context", "w_ple_norm")


@pytest.mark.parametrize(("name", "form"), CASES)
def test_each_layers_weights_are_the_checkpoints(lab: Lab, name: str, form: str) -> None:
    bridge, checkpoint = lab.bridge(name, form), Checkpoint(lab, name)
    first = bridge.cfg.layers[0]
    wanted = BY_LAYER | (OF_MOE if first.moe else {}) | (OF_PLE if bridge.cfg.d_ple else {})
    for weight, read in wanted.items():
        got = getattr(bridge, weight)
        assert len(got) == bridge.cfg.n_layers
        for layer in range(bridge.cfg.n_layers):
            assert torch.equal(got[layer], read(checkpoint, layer)), f"{weight} of layer {layer}"


@pytest.mark.parametrize(("name", "form"), CASES)
def test_attention_is_the_checkpoints_and_a_sharers_keys_its_donors(
    lab: Lab, name: str, form: str
) -> None:
    bridge, checkpoint = lab.bridge(name, form), Checkpoint(lab, name)
    for layer, spec in enumerate(bridge.cfg.layers):
        at = spec.attention
        source = layer if at.donor is None else at.donor
        value = "v" if checkpoint.has(source, "self_attn.v_proj.weight") else "k"
        assert (value == "k") == at.k_is_v
        for weight, part, of, n in (
            ("W_Q", "q", layer, at.n_heads),
            ("W_K", "k", source, at.n_kv_heads),
            ("W_V", value, source, at.n_kv_heads),
        ):
            want = heads(checkpoint.at(of, f"self_attn.{part}_proj.weight"), n)
            assert torch.equal(getattr(bridge, weight)[layer], want), f"{weight} of layer {layer}"
        want = out_heads(checkpoint.at(layer, "self_attn.o_proj.weight"), at.n_heads)
        assert torch.equal(bridge.W_O[layer], want)
        assert torch.equal(bridge.w_k_norm[layer], checkpoint.at(source, "self_attn.k_norm.weight"))


@pytest.mark.parametrize(("name", "form"), CASES)
def test_the_models_own_weights_are_the_checkpoints(lab: Lab, name: str, form: str) -> None:
    bridge, tensors = lab.bridge(name, form), Checkpoint(lab, name).tensors
    assert torch.equal(bridge.W_E, tensors["embed_tokens.weight"])
    assert torch.equal(bridge.W_U, tensors["embed_tokens.weight"].mT)
    assert torch.equal(bridge.w_ln_final, tensors["norm.weight"])
    if bridge.cfg.d_ple == 0:
        return
    d_ple = bridge.cfg.d_ple
    table, context = (
        tensors["embed_tokens_per_layer.weight"],
        tensors["per_layer_model_projection.weight"],
    )
    assert torch.equal(bridge.w_ple_norm, tensors["per_layer_projection_norm.weight"])
    for layer in range(bridge.cfg.n_layers):
        own = slice(layer * d_ple, (layer + 1) * d_ple)
        assert torch.equal(bridge.W_PLE[:, layer], table[:, own])
        assert torch.equal(bridge.W_PLE_context[layer], context[own].mT)


def test_an_untied_head_is_its_own(lab: Lab) -> None:
    bridge = lab.bridge("e2b", "untied")
    head = checkpoint_forms.load_tensors(lab.folder("e2b", "untied"))["lm_head.weight"]
    assert torch.equal(bridge.W_U, head.mT)
    assert not torch.equal(bridge.W_U, bridge.W_E.mT)


def test_a_blocks_weights_are_views_and_a_write_changes_the_model(lab: Lab) -> None:
    bridge = bezel.Bridge.from_pretrained(lab.folder("wrapped_moe"), dtype=torch.float32)
    before = bridge(TOKENS)
    block = bridge.blocks[2]
    views = [*block.attn[:4], *block.mlp, *block.moe, block.ln1.w, block.layer_scalar]
    views += [bridge.W_E, bridge.W_U, bridge.w_ln_final, bridge.W_Q[2], bridge.W_O[0]]
    memory = {w.untyped_storage().data_ptr() for w in bridge._slots.values()}
    assert all(view.untyped_storage().data_ptr() in memory for view in views)
    block.attn.W_O[1] = 0
    want = lab.bridge("wrapped_moe").run_with_hooks(TOKENS, [("blocks.2.attn.hook_z", zero_head_1)])
    torch.testing.assert_close(bridge(TOKENS), want)
    assert not torch.allclose(want, before)


def zero_head_1(z: torch.Tensor, hook: bezel.Hook) -> None:
    z[:, :, 1] = 0


def test_per_layer_embeddings_are_views(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    memory = {w.untyped_storage().data_ptr() for w in bridge._slots.values()}
    for view in (bridge.W_PLE, bridge.W_PLE_context, bridge.w_ple_norm, *bridge.blocks[1].ple):
        assert view.untyped_storage().data_ptr() in memory


def test_norms_of_a_block_are_by_transformerlens_names(lab: Lab) -> None:
    for name in ("e2b", "moe"):
        bridge = lab.bridge(name)
        for layer, block in enumerate(bridge.blocks):
            for norm in ("ln1", "ln1_post", "ln2", "ln2_post"):
                assert torch.equal(getattr(block, norm).w, getattr(bridge, f"w_{norm}")[layer])
        assert repr(bridge.blocks[1]) == "Layer(1)"


@pytest.mark.parametrize(
    ("name", "absent"),
    [("e2b", [*OF_MOE]), ("moe", [*OF_PLE, *OF_MODEL_PLE]), ("mha", [*OF_MOE, *OF_PLE])],
)
def test_weights_that_a_model_lacks_are_said_to_be_missing(
    lab: Lab, name: str, absent: list[str]
) -> None:
    for weight in absent:
        with pytest.raises(NoSuchWeightError, match="this model has no"):
            getattr(lab.bridge(name), weight)
        assert not hasattr(lab.bridge(name), weight)


def test_the_embedding_scale_is_rounded_as_the_weights_are(lab: Lab) -> None:
    assert lab.bridge("e2b").embed_scale == torch.tensor(48.0).sqrt().item()
    rounded = lab.bridge("e2b", dtype=torch.bfloat16).embed_scale
    assert rounded == torch.tensor(48.0).sqrt().bfloat16().item() != 48.0**0.5


def test_blocks_are_found_by_kind(lab: Lab) -> None:
    def layers(name: str, kind: str) -> list[int]:
        bridge = lab.bridge(name)
        found = bridge.blocks_with(kind)
        assert all(block is bridge.blocks[i] for i, block in found)
        return [i for i, _ in found]

    assert layers("e2b", "shared_kv") == [4, 5, 6, 7]
    assert layers("e2b", "own_kv") == [0, 1, 2, 3]
    assert layers("e2b", "donor") == [2, 3]
    assert layers("e2b", "full") == [3, 7]
    assert layers("e2b", "sliding") == [0, 1, 2, 4, 5, 6]
    assert layers("e2b", "ple") == layers("e2b", "attn") == layers("e2b", "dense") == [*range(8)]
    assert layers("e2b", "moe") == layers("e2b", "k_is_v") == []
    assert layers("moe", "moe") == layers("moe", "mlp") == [*range(6)]
    assert layers("moe", "dense") == layers("moe", "ple") == layers("moe", "shared_kv") == []
    assert layers("moe", "k_is_v") == layers("moe", "full") == [2, 5]
    with pytest.raises(ArgumentError, match="wanted one of attn, mlp, moe"):
        layers("moe", "experts")


def test_heads_are_labelled_layer_by_layer(lab: Lab) -> None:
    labels = lab.bridge("mha").all_head_labels
    assert labels[:4] == ["L0H0", "L0H1", "L0H2", "L1H0"]
    assert len(labels) == 4 * 3


def mean_of_pairs(logits: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[batch pos-1], pair by pair; NaN where one does not count."""
    out = torch.full((tokens.shape[0], tokens.shape[1] - 1), float("nan"))
    for row, pos in np.ndindex(*out.shape):
        if mask[row, pos] and mask[row, pos + 1] and tokens[row, pos + 1] != -100:
            chances = logits[row, pos].exp() / logits[row, pos].exp().sum()
            out[row, pos] = -chances[tokens[row, pos + 1]].log()
    return out


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_the_loss_counts_pairs_whose_both_tokens_are_valid(lab: Lab, dtype: torch.dtype) -> None:
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(7)
    logits = bridge(tokens)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0]])
    want = mean_of_pairs(logits, tokens, mask)
    per_token = bridge.loss_fn(logits, tokens, mask.to(dtype), per_token=True)
    torch.testing.assert_close(per_token, want.nan_to_num(0))
    torch.testing.assert_close(bridge.loss_fn(logits, tokens, mask.to(dtype)), want.nanmean())
    torch.testing.assert_close(
        bridge.loss_fn(logits, tokens), mean_of_pairs(logits, tokens, torch.ones(2, 7)).mean()
    )
    masked = bridge(tokens, attention_mask=mask, return_type="both")
    assert torch.equal(bridge.loss_fn(masked[0], tokens, mask), masked[1])


def test_a_loss_of_other_shapes_is_refused(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(7)
    logits = bridge(tokens)
    for wrong in [(logits[0], tokens[0]), (logits, tokens[:, :6]), (logits, tokens, tokens[:, :6]),
                  (logits, tokens, tokens[0])]:  # fmt: skip
        with pytest.raises(ArgumentError):
            bridge.loss_fn(*wrong)
