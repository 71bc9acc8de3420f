"""The weights that a Bridge hands out are the checkpoint's, by TransformerLens's names and axes.

Compared with the tensors as safetensors reads them, and with the values of a run in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import bezel
from bezel import FactoredMatrix
from bezel.errors import ArgumentError, NoSuchWeightError
from support import checkpoint_forms, fixtures
from support.lab import Lab

NAMES = tuple(fixtures.RECIPES)
TOKENS = fixtures.tokens(12)
CASES = [(name, form) for name in NAMES for form in ("saved", *checkpoint_forms.forms_of(name))]
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


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


@pytest.fixture(scope="module")
def uniform(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model whose sliding and full layers are alike, and share no keys."""
    recipe = fixtures.Recipe(
        "sfs",
        {
            **fixtures.RECIPES["e2b"].text,
            "head_dim": 8,
            "global_head_dim": 8,
            "num_kv_shared_layers": 0,
            "use_double_wide_mlp": False,
        },
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(fixtures.RECIPES, "uniform", recipe)
        folder = fixtures.make("uniform", tmp_path_factory.mktemp("uniform"))
    return bezel.Bridge.from_pretrained(folder, dtype=torch.float32)


SHAPES = {
    "W_Q": (3, 4, 48, 8), "W_K": (3, 1, 48, 8), "W_V": (3, 1, 48, 8), "W_O": (3, 4, 8, 48),
    "W_gate": (3, 48, 32), "W_in": (3, 48, 32), "W_out": (3, 32, 48), "layer_scalars": (3,),
    "w_ln1": (3, 48), "w_q_norm": (3, 8), "W_PLE_gate": (3, 48, 12), "W_PLE_out": (3, 12, 48),
    "W_PLE": (160, 3, 12), "W_PLE_context": (3, 48, 12), "W_E": (160, 48), "W_U": (48, 160),
    "QK": (3, 4, 48, 48), "OV": (3, 4, 48, 48),
}  # fmt: skip


def test_weights_are_stacked_where_layers_agree(uniform: Any) -> None:
    for name, shape in SHAPES.items():
        weight = getattr(uniform, name)
        assert isinstance(weight, FactoredMatrix if name in ("QK", "OV") else torch.Tensor)
        assert weight.shape == shape, name
    for layer in range(3):
        assert torch.equal(uniform.W_Q[layer], uniform.blocks[layer].attn.W_Q)
        torch.testing.assert_close(uniform.QK[layer].AB, uniform.blocks[layer].attn.QK.AB)
        torch.testing.assert_close(
            uniform.QK[layer, 2].AB, uniform.W_Q[layer, 2] @ uniform.W_K[layer, 0].mT
        )


def test_layers_that_differ_are_a_list_that_says_so(lab: Lab) -> None:
    bridge = lab.bridge("e2b")  # sssfsssf: heads of 8 and 16, MLPs of 32 and 64
    w = bridge.W_Q
    assert len(w) == 8
    assert w.shapes == [(4, 48, 8)] * 3 + [(4, 48, 16)] + [(4, 48, 8)] * 3 + [(4, 48, 16)]
    assert w[3].shape == w[-1].shape == (4, 48, 16)
    assert torch.equal(w[3, 2], w[3][2])
    assert torch.equal(w[3, 2, :, 5], w[3][2, :, 5])
    assert [x.shape for x in w] == w.shapes
    assert torch.equal(w.stack([0, 2]), torch.stack([w[0], w[2]]))
    assert "[4, 48, 16] in layers 3, 7" in repr(w)
    qk = bridge.QK
    assert isinstance(qk.stack([0, 1, 2]), FactoredMatrix)
    torch.testing.assert_close(qk.stack([0, 1])[1, 3].AB, qk[1, 3].AB)
    assert qk.shapes == [(4, 48, 48)] * 8


MISUSES: dict[str, Callable[[Any], Any]] = {
    "torch.stack": lambda w: torch.stack(w),
    "torch.cat": lambda w: torch.cat(w),
    "torch.einsum": lambda w: torch.einsum("lhmd->lh", w),
    "a keyword": lambda w: torch.nn.functional.linear(torch.zeros(8), weight=w),
    "x @ W": lambda w: torch.zeros(48) @ w,
    "W @ x": lambda w: w @ torch.zeros(8),
    "x * W": lambda w: torch.zeros(8) * w,
    "numpy": lambda w: np.asarray(w),
    "a range of layers": lambda w: w[:3],
    "a list of layers": lambda w: w[[0, 1]],
    "an ellipsis": lambda w: w[..., 0],
    "True": lambda w: w[True],
    "stack": lambda w: w.stack(),
    "stack of some": lambda w: w.stack([0, 3]),
    "stack of none": lambda w: w.stack([]),
}


@pytest.mark.parametrize("what", MISUSES)
def test_using_such_a_list_as_one_tensor_says_why_not(lab: Lab, what: str) -> None:
    with pytest.raises(ArgumentError, match=r"W_Q.*differ in shape.*\[4, 48, 16\] in layers 3, 7"):
        MISUSES[what](lab.bridge("e2b").W_Q)


def test_such_a_list_has_no_one_shape(lab: Lab) -> None:
    w = lab.bridge("e2b").W_O
    with pytest.raises(NoSuchWeightError, match="W_O.shape: layers differ in shape"):
        _ = w.shape
    assert not hasattr(w, "shape")
    for layer in (8, -9):
        with pytest.raises(IndexError, match="8 layers"):
            w[layer]


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
