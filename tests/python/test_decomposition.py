"""Parts of the stream: each against slow loops over the checkpoint's tensors, and their sums."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

import bezel
from support import compare, fixtures, stream_parts
from support.lab import Lab
from support.stream_parts import attn_out, experts, heads, mlp_out, neurons, ple_out

NAMES = tuple(fixtures.RECIPES)
LENGTH = 20
TOKENS = fixtures.tokens(LENGTH)
SUM_GATES = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2}
SETTINGS = {
    "float32": {"dtype": torch.float32},
    "float64": {"dtype": torch.float64, "path": "open"},
    "bfloat16": {"dtype": torch.bfloat16},
}


class Case(NamedTuple):
    bridge: Any
    cache: bezel.ActivationCache
    checkpoint: stream_parts.Checkpoint
    reference: compare.Values

    @property
    def middle(self) -> int:
        return self.bridge.cfg.n_layers // 2


@pytest.fixture(scope="module", params=NAMES)
def case(lab: Lab, request: pytest.FixtureRequest) -> Case:
    name = request.param
    bridge = lab.bridge(name)
    return Case(
        bridge,
        bridge.run_with_cache(TOKENS)[1],
        stream_parts.Checkpoint(name, lab.folder(name)),
        lab.values(name, LENGTH),
    )


def agree(got: torch.Tensor, labels: list[str], want: stream_parts.Parts) -> None:
    """Every part, in any order, against the loops."""
    assert sorted(labels) == sorted(want)
    assert len(got) == len(labels)
    for part, label in zip(got, labels, strict=True):
        assert compare.relative_rms(part, want[label]) <= compare.RELATIVE_RMS, label


# --- each part is what the loops say, in float32 -------------------------------------------------
# Branches and heads from the reference's values. Neurons from the cache's own: one alone differs
# between two right float32 runs by more than the gate of a whole value.


@pytest.mark.parametrize("mlp_input", [False, True])
@pytest.mark.parametrize("where", ["start", "middle", "end"])
def test_each_branch_carries_the_later_scalars(case: Case, where: str, mlp_input: bool) -> None:
    layer = {"start": 0, "middle": case.middle, "end": case.bridge.cfg.n_layers}[where]
    if where == "end" and mlp_input:
        return  # refused: test_decomposition_errors.py
    stack, labels = case.cache.decompose_resid(layer, mlp_input, return_labels=True)
    want = stream_parts.embed(case.checkpoint, case.reference, layer) | stream_parts.parts(
        case.checkpoint,
        case.reference,
        (attn_out, mlp_out, ple_out),
        layer,
        also=(attn_out,) if mlp_input else (),
    )
    agree(stack, labels, want)
    assert labels == list(want)  # in forward order


@pytest.mark.parametrize("mode", ["attn", "mlp", "ple"])
def test_a_mode_is_one_kind_of_part(case: Case, mode: Any) -> None:
    kind = {"attn": attn_out, "mlp": mlp_out, "ple": ple_out}[mode]
    want = stream_parts.parts(case.checkpoint, case.reference, (kind,), case.middle)
    if not want:  # a model without per-layer embeddings
        with pytest.raises(bezel.errors.ArgumentError, match="nothing"):
            case.cache.decompose_resid(case.middle, mode=mode, incl_embeds=False)
        return
    stack, labels = case.cache.decompose_resid(
        case.middle, mode=mode, incl_embeds=False, return_labels=True
    )
    agree(stack, labels, want)
    with_embed = case.cache.decompose_resid(case.middle, mode=mode)
    assert torch.equal(with_embed[1:], stack)


@pytest.mark.parametrize("where", ["middle", "end"])
def test_each_head_goes_through_the_post_norm_and_the_later_scalars(case: Case, where: str) -> None:
    layer = case.middle if where == "middle" else -1
    stop = case.middle if where == "middle" else case.bridge.cfg.n_layers
    stack, labels = case.cache.stack_head_results(layer, return_labels=True)
    agree(stack, labels, stream_parts.parts(case.checkpoint, case.reference, (heads,), stop))
    assert labels[: case.bridge.cfg.n_heads + 1][-2:] == [
        f"L0H{case.bridge.cfg.n_heads - 1}", "L1H0",
    ]  # fmt: skip


@pytest.mark.parametrize("where", ["middle", "end"])
def test_each_neuron_goes_through_the_post_norms_and_the_later_scalars(
    case: Case, where: str
) -> None:
    layer = case.middle if where == "middle" else -1
    stop = case.middle if where == "middle" else case.bridge.cfg.n_layers
    stack, labels = case.cache.stack_neuron_results(layer, return_labels=True)
    agree(stack, labels, stream_parts.parts(case.checkpoint, case.cache, (neurons,), stop))


def test_a_neurons_own_results_are_before_the_layers_scalar(case: Case) -> None:
    for layer in range(case.bridge.cfg.n_layers):
        want = neurons(case.checkpoint, case.cache, layer)
        got = case.cache.get_neuron_results(layer)
        agree(got.movedim(-2, 0), list(want), want)


@pytest.mark.parametrize("mlp_input", [False, True])
@pytest.mark.parametrize("expand_neurons", [True, False])
def test_the_full_decomposition_has_every_part_once(
    case: Case, expand_neurons: bool, mlp_input: bool
) -> None:
    layer = case.middle
    stack, labels = case.cache.get_full_resid_decomposition(
        layer, mlp_input, expand_neurons, return_labels=True
    )
    inner = (neurons, experts) if expand_neurons else (mlp_out,)
    also = (heads,) if mlp_input else ()
    want = stream_parts.parts(case.checkpoint, case.cache, (heads, *inner, ple_out), layer, also)
    agree(stack, labels, want | stream_parts.embed(case.checkpoint, case.cache, layer))


def test_the_full_decomposition_of_the_beginning_is_the_embedding(case: Case) -> None:
    stack, labels = case.cache.get_full_resid_decomposition(0, return_labels=True)
    assert labels == ["embed"]
    assert torch.equal(stack[0], case.cache["full_embed"])


def test_remainders_are_the_rest_of_the_stream(case: Case) -> None:
    cache, layer = case.cache, case.middle
    for stack, labels in (
        cache.stack_head_results(layer, return_labels=True, incl_remainder=True),
        cache.stack_neuron_results(layer, return_labels=True, incl_remainder=True),
    ):
        assert labels[-1] == "remainder"
        assert len(stack) == len(labels)
        assert compare.relative_rms(stack.sum(0), cache["resid_pre", layer]) <= 1e-5
    rest = cache.stack_head_results(layer, incl_remainder=True)[-1]
    others = (mlp_out, ple_out)
    want = stream_parts.parts(case.checkpoint, case.reference, others, layer)
    want |= stream_parts.embed(case.checkpoint, case.reference, layer)
    assert compare.relative_rms(rest, torch.stack(list(want.values())).sum(0)) <= 1e-5
    mid = cache.stack_neuron_results(layer, incl_remainder=True, mlp_input=True).sum(0)
    assert compare.relative_rms(mid, cache["resid_mid", layer]) <= 1e-5
    whole = cache.stack_head_results(0, incl_remainder=True)
    assert torch.equal(whole, cache["resid_pre", 0].unsqueeze(0))


def test_accumulated_streams_are_the_recorded_ones(case: Case) -> None:
    cache, n_layers = case.cache, case.bridge.cfg.n_layers
    stack, labels = cache.accumulated_resid(incl_mid=True, return_labels=True)
    blocks = [f"{i}_{row}" for i in range(n_layers) for row in ("pre", "mid")]
    assert labels == [*blocks, "final_post"]
    for stream, label in zip(stack[:-1], labels, strict=False):
        layer, row = label.split("_")
        assert torch.equal(stream, cache[f"resid_{row}", int(layer)])
    assert torch.equal(stack[-1], cache["resid_post", -1])
    stack, labels = cache.accumulated_resid(2, mlp_input=True, return_labels=True)
    assert labels == ["0_pre", "1_pre", "2_pre", "2_mid"]
    assert torch.equal(stack[-1], cache["resid_mid", 2])
    assert len(cache.accumulated_resid(2)) == 3
    assert torch.equal(cache.accumulated_resid(-1), cache.accumulated_resid(None))


# --- sums, in every dtype ------------------------------------------------------------------------


def streams(cache: bezel.ActivationCache, layer: int, mlp_input: bool) -> torch.Tensor:
    if mlp_input:
        return cache["resid_mid", layer]
    return cache["resid_pre", layer] if layer < cache.n_layers else cache["resid_post", -1]


def sums_hold(cache: bezel.ActivationCache, gate: float, pos_slice: Any = None) -> None:
    n_layers = cache.n_layers
    places = [(0, False), (1, True), (n_layers // 2, False), (n_layers - 1, True)]
    for layer, mlp_input in [*places, (n_layers, False)]:
        want = streams(cache, layer, mlp_input)
        if pos_slice is not None:
            want = want[..., pos_slice, :]
        for parts in (
            cache.decompose_resid(layer, mlp_input, pos_slice=pos_slice),
            cache.get_full_resid_decomposition(layer, mlp_input, True, pos_slice=pos_slice),
            cache.get_full_resid_decomposition(layer, mlp_input, False, pos_slice=pos_slice),
        ):
            wide = torch.float64 if want.dtype == torch.float64 else torch.float32
            assert parts.dtype == wide
            assert compare.relative_rms(parts.sum(0), want) <= gate


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", NAMES)
def test_all_parts_sum_to_the_stream_at_every_place(lab: Lab, name: str, setting: str) -> None:
    bridge = lab.bridge(name, **SETTINGS[setting])
    _, cache = bridge.run_with_cache(TOKENS)
    sums_hold(cache, SUM_GATES[bridge.dtype])
    sums_hold(cache, SUM_GATES[bridge.dtype], pos_slice=-1)
    if setting == "float32":
        _, kept = bridge.run_with_cache(TOKENS, dtype=torch.bfloat16)
        sums_hold(kept, SUM_GATES[torch.bfloat16])
        sums_hold(cache.to(dtype=torch.float64), SUM_GATES[torch.float32])


@pytest.mark.parametrize("name", NAMES)
def test_sums_hold_in_padded_cut_and_batchless_caches(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name, **SETTINGS["float64"])
    mask = (torch.arange(LENGTH) >= torch.tensor([[7], [0], [19]])).long()
    tokens = fixtures.tokens(LENGTH, 3)
    gate = SUM_GATES[torch.float64]
    _, whole = bridge.run_with_cache(tokens, attention_mask=mask)
    sums_hold(whole, gate)
    for cut in (slice(2, 9), -1):
        _, cache = bridge.run_with_cache(tokens, attention_mask=mask, pos_slice=cut)
        sums_hold(cache, gate)
    _, alone = bridge.run_with_cache(tokens[:1], remove_batch_dim=True)
    sums_hold(alone, gate)
    assert alone.decompose_resid().ndim == 3
    sums_hold(whole.apply_slice_to_batch_dim(1), gate)
    sums_hold(whole.apply_slice_to_batch_dim([2, 0]), gate)
    _, early = bridge.run_with_cache(tokens, stop_at_layer=2)
    parts = early.decompose_resid(2).sum(0)
    assert compare.relative_rms(parts, early["resid_post", 1]) <= gate


@pytest.mark.parametrize("name", ["e2b", "moe"])
def test_parts_at_valid_positions_are_those_of_the_unpadded_run(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name, **SETTINGS["float64"])
    tokens = fixtures.tokens(LENGTH, 2)
    mask = (torch.arange(LENGTH) >= torch.tensor([[7], [0]])).long()
    _, padded = bridge.run_with_cache(tokens, attention_mask=mask)
    _, alone = bridge.run_with_cache(tokens[:1, 7:])
    got = padded.get_full_resid_decomposition(apply_ln=True)[:, :1, 7:]
    assert compare.relative_rms(got, alone.get_full_resid_decomposition(apply_ln=True)) <= 1e-12


def test_positions_are_cut_as_in_the_whole(case: Case) -> None:
    cache = case.cache
    for cut, same in (
        (3, 3), (-1, -1), ((4,), slice(4)), ((2, 7), slice(2, 7)), ((1, 9, 3), slice(1, 9, 3)),
        ([5, 0], [5, 0]), (torch.tensor([2, 8]), [2, 8]), (slice(3, None), slice(3, None)),
        (torch.arange(LENGTH) % 2 == 0, slice(0, None, 2)),
    ):  # fmt: skip
        for method in (
            cache.decompose_resid,
            cache.accumulated_resid,
            cache.get_full_resid_decomposition,
        ):
            for apply_ln in (False, True):
                got = method(pos_slice=cut, apply_ln=apply_ln)
                whole = method(apply_ln=apply_ln)[:, :, same]
                torch.testing.assert_close(got, whole, rtol=1e-6, atol=1e-6)


# --- edits of what is added ----------------------------------------------------------------------

EDITED = ["hook_attn_out", "hook_mlp_out", "attn.hook_z", "mlp.hook_post", "attn.hook_pattern"]


@pytest.mark.parametrize("row", EDITED)
def test_edits_of_what_is_added_leave_the_parts_exact(lab: Lab, row: str) -> None:
    bridge = lab.bridge("e2b", **SETTINGS["float64"])
    hook = (f"blocks.2.{row}", lambda value, hook: value * 1.5)
    _, plain = bridge.run_with_cache(TOKENS)
    _, cache = bridge.run_with_cache(TOKENS, fwd_hooks=[hook])
    assert not torch.equal(plain["resid_post", -1], cache["resid_post", -1])
    parts = cache.decompose_resid()
    assert compare.relative_rms(parts.sum(0), cache["resid_post", -1]) <= 1e-12


def test_edits_of_single_heads_and_neurons_leave_the_finer_parts_exact(lab: Lab) -> None:
    bridge = lab.bridge("moe", **SETTINGS["float64"])

    def zero_one(value: torch.Tensor, hook: Any) -> None:
        value[:, :, 1] = 0

    names = ["attn.hook_z", "attn.hook_result", "mlp.hook_post", "moe.hook_expert_out"]
    for row in names:
        hooks = [(f"blocks.1.{row}", zero_one)]
        kept = ["*", "blocks.*.attn.hook_result"]
        _, cache = bridge.run_with_cache(TOKENS, kept, fwd_hooks=hooks)
        parts, labels = cache.get_full_resid_decomposition(return_labels=True)
        assert compare.relative_rms(parts.sum(0), cache["resid_post", -1]) <= 1e-12
        if row.startswith("attn"):
            assert not parts[labels.index("L1H1")].any()
            assert parts[labels.index("L1H0")].any()


# --- head results, neurons, one name over blocks -------------------------------------------------


@pytest.mark.parametrize("remove", [False, True])
def test_head_results_are_computed_where_they_were_not_recorded(lab: Lab, remove: bool) -> None:
    bridge = lab.bridge("e2b", **SETTINGS["float64"])
    _, cache = bridge.run_with_cache(TOKENS[:1], remove_batch_dim=remove)
    _, kept = bridge.run_with_cache(
        TOKENS[:1], "blocks.*.attn.hook_result", remove_batch_dim=remove
    )
    assert ("result", 3) not in cache
    cache.compute_head_results()
    for name, value in kept.items():
        torch.testing.assert_close(cache[name], value, rtol=1e-12, atol=1e-12)
    before = {name: cache[name] for name in kept}
    cache.compute_head_results()
    assert all(torch.equal(cache[name], value) for name, value in before.items())


def test_recorded_head_results_are_kept_and_used(lab: Lab) -> None:
    bridge = lab.bridge("e2b", **SETTINGS["float64"])
    _, cache = bridge.run_with_cache(TOKENS, ["*", "blocks.*.attn.hook_result"])
    _, plain = bridge.run_with_cache(TOKENS)
    torch.testing.assert_close(
        cache.stack_head_results(), plain.stack_head_results(), rtol=1e-12, atol=1e-12
    )
    marked = cache["result", 2].fill_(7.0)
    cache.compute_head_results()
    assert torch.equal(cache["result", 2], marked)


def test_neurons_are_chosen_and_projected(case: Case) -> None:
    cache, cfg = case.cache, case.bridge.cfg
    whole = cache.get_neuron_results(1)
    assert torch.equal(cache.get_neuron_results(1, 5), whole[..., 5, :])
    assert torch.equal(cache.get_neuron_results(1, [5, 2], -1), whole[:, -1, [5, 2]])
    directions = torch.randn(cfg.d_model, 3, generator=torch.Generator().manual_seed(1))
    close = {"rtol": 1e-4, "atol": 1e-5}
    for onto in (directions, directions[:, 0]):
        got = cache.get_neuron_results(1, (4,), project_output_onto=onto)
        torch.testing.assert_close(got, whole[..., :4, :] @ onto, **close)
        for apply_ln in (False, True):
            plain = cache.get_full_resid_decomposition(3, apply_ln=apply_ln)
            got = cache.get_full_resid_decomposition(3, apply_ln=apply_ln, project_output_onto=onto)
            torch.testing.assert_close(got, plain @ onto, **close)
            plain = cache.stack_neuron_results(3, -1, incl_remainder=True, apply_ln=apply_ln)
            got = cache.stack_neuron_results(
                3, -1, incl_remainder=True, apply_ln=apply_ln, project_output_onto=onto
            )
            torch.testing.assert_close(got, plain @ onto, **close)
    some, labels = cache.stack_neuron_results(3, neuron_slice=[7, 1], return_labels=True)
    assert labels == [f"L{i}N{n}" for i in range(3) for n in (7, 1)]
    one, labels = cache.stack_neuron_results(3, neuron_slice=7, return_labels=True)
    assert labels == ["L0N7", "L1N7", "L2N7"]
    assert torch.equal(one, some[::2])


def test_one_name_is_stacked_over_blocks(case: Case) -> None:
    cache = case.cache
    stack = cache.stack_activation("attn_out")
    assert len(stack) == case.bridge.cfg.n_layers
    assert all(torch.equal(one, cache["attn_out", i]) for i, one in enumerate(stack))
    scales = cache.stack_activation("scale", 2, "ln2")
    assert torch.equal(scales[1], cache["blocks.1.ln2.hook_scale"])
    assert len(scales) == 2
