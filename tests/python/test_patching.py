"""Planned sweeps against the plain loop: every value of every model, padding, rows, dtypes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import bezel
from bezel import patching
from bezel.names import TABLE, get_act_name
from bezel.patching import along, generic_activation_patch
from bezel.patching.corrupted import CorruptedRun
from bezel.patching.memory import cells_at_once
from support import fixtures
from support.hook_table import of_text
from support.lab import Lab
from support.sweeps import Recorder, plain_sweep

NAMES = tuple(fixtures.RECIPES)
LENGTH = 9
CORRUPTED = fixtures.tokens(LENGTH)
CLEAN = fixtures.tokens(LENGTH, seed=3)
MASK = torch.ones(2, LENGTH, dtype=torch.int64)
MASK[1, :3] = 0
GAP = 1e-5  # relative to the largest logit
BFLOAT16_GAP = 0.15
QUIET: dict[str, Any] = {"verbose": False}


def clean_cache(bridge: Any, **arguments: Any) -> Any:
    names = [point.name for point in of_text(bridge.hook_points())]
    return bridge.run_with_cache(CLEAN, names, **arguments)[1]


def swept(bridge: Any, cache: Any, setter: Any, name: str, **arguments: Any) -> torch.Tensor:
    """Logits of every cell [cell batch pos d_vocab]."""
    record = Recorder()
    generic_activation_patch(bridge, CORRUPTED, cache, record, setter, name, **QUIET, **arguments)
    return record.of_cells


def gap(got: torch.Tensor, want: torch.Tensor) -> float:
    """Over valid positions, relative to the largest logit."""
    return float((got - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_of_any_value_of_blocks_is_the_loop_of_whole_runs(lab: Lab, name: str) -> None:
    """Each row of the table, patched at one position of each layer that has it."""
    bridge = lab.bridge(name)
    cache = clean_cache(bridge, attention_mask=MASK)
    valid = MASK.bool()
    names = {point.name: point for point in of_text(bridge.hook_points())}
    for row in TABLE:
        layers = [i for i in range(bridge.cfg.n_layers) if f"blocks.{i}.{row.name}" in names]
        if not row.in_block or not layers:
            continue
        setter = along(next(i for i, axis in enumerate(row.axes) if axis.endswith("pos")))
        index = [[layer, pos] for layer in layers for pos in (3, 6)]
        cells = [(get_act_name(row.name, layer), [layer, pos]) for layer, pos in index]
        got = swept(bridge, cache, setter, row.name, index_df=index, attention_mask=MASK)
        want = plain_sweep(bridge, CORRUPTED, cache, cells, setter, attention_mask=MASK)
        assert gap(got[:, valid], want[:, valid]) <= GAP, row.name


@pytest.mark.parametrize("name", ["e2b", "moe"])
def test_a_sweep_of_any_value_of_the_model_is_the_loop_of_whole_runs(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name)
    cache = clean_cache(bridge)

    def setter(value: torch.Tensor, index: Any, clean: torch.Tensor) -> torch.Tensor:
        value[:, index[0]] = clean[:, index[0]]
        return value

    for point in of_text(bridge.hook_points()):
        if point.layer is None:
            got = swept(bridge, cache, setter, point.name, index_axis_names=("pos",))
            cells = [(point.name, [i]) for i in range(LENGTH)]
            want = plain_sweep(bridge, CORRUPTED, cache, cells, setter)
            assert gap(got, want) <= GAP, point.name


@pytest.mark.parametrize("name", ["e2b", "wrapped_moe"])
def test_a_bfloat16_sweep_is_the_loop_to_its_rounding(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name, dtype=torch.bfloat16)
    cache = clean_cache(bridge)
    cells = [(f"blocks.{i}.hook_attn_out", [i, 4]) for i in range(bridge.cfg.n_layers)]
    index = [index for _, index in cells]
    got = swept(bridge, cache, along(1), "attn_out", index_df=index)
    want = plain_sweep(bridge, CORRUPTED, cache, cells, along(1))
    assert gap(got.float(), want.float()) <= BFLOAT16_GAP


def test_ids_of_padding_at_the_ends_are_padding_in_every_cell(lab: Lab) -> None:
    """The mask that the plain run counts from the ids reaches runs from the middle."""
    bridge = lab.bridge("e2b")
    padded = CORRUPTED.clone()
    padded[1, :3] = bridge.cfg.pad_token_id
    cache = clean_cache(bridge)
    cells = [(f"blocks.{i}.hook_resid_pre", [i, 5]) for i in range(8)]
    record = Recorder()
    index = [index for _, index in cells]
    generic_activation_patch(
        bridge, padded, cache, record, along(1), "resid_pre", index_df=index, **QUIET
    )
    want = plain_sweep(bridge, padded, cache, cells, along(1))
    valid = MASK.bool()
    assert gap(record.of_cells[:, valid], want[:, valid]) <= GAP


def test_given_positions_hold_in_every_cell(lab: Lab) -> None:
    bridge = lab.bridge("mha")
    cache = clean_cache(bridge)
    given = {"position_ids": torch.arange(LENGTH).mul(3).expand(2, -1)}
    cells = [(f"blocks.{i}.attn.hook_z", [i, 1]) for i in range(4)]
    index = [index for _, index in cells]
    got = swept(bridge, cache, along(2), "z", index_df=index, **given)
    want = plain_sweep(bridge, CORRUPTED, cache, cells, along(2), **given)
    assert gap(got, want) <= GAP
    assert gap(got, plain_sweep(bridge, CORRUPTED, cache, cells, along(2))) > GAP


def test_a_sweep_of_little_memory_is_the_same_sweep(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    cache = clean_cache(bridge)
    arguments = {"index_axis_names": ("layer", "pos")}
    wide = swept(bridge, cache, along(1), "resid_mid", **arguments)
    narrow = swept(bridge, cache, along(1), "resid_mid", bytes_at_hand=1, **arguments)
    assert gap(narrow, wide) <= GAP


def test_what_a_metric_or_a_setter_writes_reaches_no_other_cell(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    clean, tokens = CORRUPTED.clone(), CORRUPTED.clone()
    clean[:, 6] = CLEAN[:, 6]  # cells before position 6 change nothing
    _, cache = bridge.run_with_cache(clean)
    sweep = patching.get_act_patch_resid_pre

    def writes(logits: torch.Tensor) -> torch.Tensor:
        logits += 1
        return logits[0, 3, 5] + logits[0, 7, 5] - 2

    def setter(value: torch.Tensor, index: Any, clean: torch.Tensor) -> torch.Tensor:
        tokens.fill_(7)
        return along(1)(value, index, clean)

    got = sweep(bridge, tokens, cache, writes, **QUIET)
    want = sweep(bridge, tokens, cache, lambda x: x[0, 3, 5] + x[0, 7, 5], **QUIET)
    assert (got - want).abs().max() < 1e-4
    axes = ("layer", "pos")
    again = generic_activation_patch(
        bridge, tokens, cache, lambda x: x[0, 3, 5] + x[0, 7, 5], setter, "resid_pre", axes, **QUIET
    )
    assert torch.equal(again, want)


def test_cells_are_counted_with_their_patch_and_the_logits_that_are_kept(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    whole, last = (CorruptedRun(bridge, CORRUPTED, logits_to_keep=n) for n in (LENGTH, 1))
    (logits,) = whole.bytes_by_name("hook_logits").values()
    assert logits == 2 * LENGTH * bridge.cfg.d_vocab * 4
    at_once = [cells_at_once(run, ["blocks.0.hook_resid_pre"], 10**9) for run in (whole, last)]
    assert at_once[0] < at_once[1]
    assert cells_at_once(whole, ["blocks.0.hook_q_input"], 10**9) < at_once[0]
    assert cells_at_once(whole, [], 1) == 1


def test_a_layer_without_such_a_value_or_head_is_nan(lab: Lab) -> None:
    bridge = lab.bridge("e2b")  # blocks 4 to 7 share keys and values
    cache = clean_cache(bridge)
    metric = Recorder()
    own = patching.get_act_patch_attn_head_k_all_pos(bridge, CORRUPTED, cache, metric, **QUIET)
    shared = patching.get_act_patch_attn_head_shared_k_all_pos(
        bridge, CORRUPTED, cache, metric, **QUIET
    )
    assert own.shape == shared.shape == (8, 1)
    assert torch.isfinite(own[:4]).all()
    assert own[4:].isnan().all()
    assert shared[:4].isnan().all()
    assert torch.isfinite(shared[4:]).all()
    ragged = lab.bridge("moe")  # one key/value head in full layers, two in sliding ones
    keys = patching.get_act_patch_attn_head_k_all_pos(
        ragged, CORRUPTED, clean_cache(ragged), metric, **QUIET
    )
    want = [[False, layer.attention.n_kv_heads < 2] for layer in ragged.cfg.layers]
    assert keys.isnan().tolist() == want


NAMED = {
    name: getattr(patching, name)
    for name in patching.__all__
    if name.startswith("get_act_patch_") and not name.endswith("_every")
}


@pytest.mark.parametrize("model", ["e2b", "moe"])
def test_every_named_sweep_has_the_axes_of_its_docstring(lab: Lab, model: str) -> None:
    bridge = lab.bridge(model)
    cache = clean_cache(bridge)
    sizes = {"layer": bridge.cfg.n_layers, "pos": LENGTH, "dest_pos": LENGTH, "src_pos": LENGTH}
    sizes |= {"head": bridge.cfg.n_heads, "head_index": bridge.cfg.n_heads, "k": 3}
    n_kv_heads = max(layer.attention.n_kv_heads for layer in bridge.cfg.layers)
    n_swept = 0
    for name, sweep in NAMED.items():
        axes = sweep.__doc__.split("Returns:")[1].split("[")[1].split("]")[0].split()
        try:
            result = sweep(bridge, CORRUPTED, cache, lambda x: x[0, -1, 5], **QUIET)
        except bezel.errors.HookNotApplicableError:
            continue
        n_swept += 1
        own = sizes | ({"head": n_kv_heads} if "_k_" in name or "_v_" in name else {})
        assert result.shape == tuple(own[axis] for axis in axes), name
        assert result.isfinite().any(), name
    assert n_swept == {"e2b": len(NAMED) - 5, "moe": len(NAMED) - 6}[model]


def test_sweeps_of_every_kind_are_the_single_ones(lab: Lab) -> None:
    bridge = lab.bridge("moe")
    cache = clean_cache(bridge)

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, 5]

    asked = (bridge, CORRUPTED, cache, metric)
    blocks = patching.get_act_patch_block_every(*asked, **QUIET)
    assert torch.equal(blocks[1], patching.get_act_patch_attn_out(*asked, **QUIET))
    every = patching.get_act_patch_attn_head_all_pos_every(*asked, **QUIET)
    assert every.shape == (5, 6, 4)
    assert torch.equal(every[0], patching.get_act_patch_attn_head_out_all_pos(*asked, **QUIET))
    assert every[2, :, 2:].isnan().all()
    by_pos = patching.get_act_patch_attn_head_by_pos_every(*asked, **QUIET)
    assert by_pos.shape == (5, 6, LENGTH, 4)
    patterns = patching.get_act_patch_attn_head_pattern_by_pos(*asked, **QUIET)
    assert torch.equal(by_pos[4], patterns.transpose(1, 2))
