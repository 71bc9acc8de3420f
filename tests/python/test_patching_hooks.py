"""Sweeps beside the Bridge's own hooks, when they are cut short, and what they measure."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tqdm.auto import tqdm

import bezel
from bezel import patching
from bezel.errors import ArgumentError, HookNotApplicableError, HookResultError, UnknownHookError
from bezel.patching import along, generic_activation_patch
from support import fixtures
from support.lab import Lab
from support.sweeps import Recorder, plain_sweep

NANO = Path(__file__).resolve().parents[1] / "data" / "nano"
LENGTH = 9
CORRUPTED = fixtures.tokens(LENGTH)
CLEAN = fixtures.tokens(LENGTH, seed=3)
CELLS = [(f"blocks.{i}.attn.hook_z", [i, head]) for i in range(8) for head in (0, 3)]
INDEX = [index for _, index in CELLS]
GAP = 1e-5
HEAD = along(2)


def swept(bridge: Any, cache: Any, setter: Any = HEAD) -> torch.Tensor:
    record = Recorder()
    generic_activation_patch(
        bridge, CORRUPTED, cache, record, setter, "z", index_df=INDEX, verbose=False
    )
    return record.of_cells


def gap(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


class Steering:
    """Adds a tensor of the batch's own shape, so that rows cannot be mixed up; counts its calls."""

    def __init__(self) -> None:
        self.noise: dict[str, torch.Tensor] = {}
        self.calls: list[str] = []

    def __call__(self, value: torch.Tensor, hook: Any) -> torch.Tensor:
        self.calls.append(hook.name)
        assert hook.positions.shape == (2, LENGTH)
        if hook.name not in self.noise:
            rng = torch.Generator().manual_seed(len(self.noise))
            self.noise[hook.name] = torch.randn(value.shape, generator=rng)
        return value + self.noise[hook.name]


STEERED = [
    "hook_embed", "ple.hook_inputs", "blocks.2.attn.hook_rot_k", "blocks.3.hook_resid_pre",
    "blocks.3.attn.hook_z", "blocks.6.hook_resid_post", "hook_logits",
]  # fmt: skip


@pytest.mark.parametrize("at", STEERED)
@pytest.mark.parametrize("kind", ["standing", "with"])
def test_hooks_of_the_bridge_apply_in_a_sweep_as_in_the_loop(lab: Lab, at: str, kind: str) -> None:
    bridge = lab.bridge("e2b")
    _, cache = bridge.run_with_cache(CLEAN)
    plain = swept(bridge, cache)
    steer = Steering()
    if kind == "standing":
        bridge.add_hook(at, steer)
        try:
            got, want = swept(bridge, cache), plain_sweep(bridge, CORRUPTED, cache, CELLS, along(2))
        finally:
            bridge.reset_hooks()
    else:
        with bridge.hooks([(at, steer)]):
            got, want = swept(bridge, cache), plain_sweep(bridge, CORRUPTED, cache, CELLS, along(2))
    assert gap(got, want) <= GAP
    assert gap(got, plain) > GAP


def test_a_sweep_has_the_hooks_that_stood_when_it_began(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    _, cache = bridge.run_with_cache(CLEAN)
    want = swept(bridge, cache)

    def setter(value: torch.Tensor, index: Any, clean: torch.Tensor) -> torch.Tensor:
        if not bridge.list_hooks():
            bridge.add_hook("hook_logits", lambda x, hook: x * 2)
        return along(2)(value, index, clean)

    try:
        assert torch.equal(swept(bridge, cache, setter), want)
        assert bridge.list_hooks()
    finally:
        bridge.reset_hooks()


@pytest.mark.parametrize("where", ["metric", "setter"])
def test_an_interrupted_sweep_leaves_nothing_behind(lab: Lab, where: str) -> None:
    bridge = lab.bridge("e2b")
    _, cache = bridge.run_with_cache(CLEAN)
    bridge.add_hook("hook_embed", standing := Steering())
    want = bridge(CORRUPTED)
    calls = []

    def interrupt(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return arguments[0].mean() if where == "metric" else None

    metric = interrupt if where == "metric" else torch.mean
    setter = interrupt if where == "setter" else along(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            generic_activation_patch(
                bridge, CORRUPTED, cache, metric, setter, "z", index_df=INDEX, verbose=True
            )
        hooks = bridge.list_hooks()
        assert [h.function for at in hooks.values() for h in at] == [standing]
        assert torch.equal(bridge(CORRUPTED), want)
        assert not tqdm._instances
    finally:
        bridge.reset_hooks()


def test_a_setter_may_write_or_return_and_sees_the_rows_of_its_cell(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    _, cache = bridge.run_with_cache(CLEAN)
    seen = []

    def writes(value: torch.Tensor, index: Any, clean: torch.Tensor) -> None:
        seen.append((tuple(value.shape), index))
        value[:, :, index[1]] = clean[:, :, index[1]]

    def returns(value: torch.Tensor, index: Any, clean: torch.Tensor) -> torch.Tensor:
        return along(2)(value.clone(), index, clean)

    want = swept(bridge, cache)
    assert torch.equal(swept(bridge, cache, writes), want)
    assert torch.equal(swept(bridge, cache, returns), want)
    assert [index for _, index in seen] == INDEX
    assert {shape[:3] for shape, _ in seen} == {(2, LENGTH, 4)}


def test_the_head_sweep_finds_the_key_head_of_nano() -> None:
    b = bezel.Bridge.from_pretrained(NANO)
    story = "<bos> When Hugo and Mary went to the shop , {} gave a drink to"
    clean, corrupted = (b.to_tokens(story.format(name)) for name in ("Mary", "Hugo"))
    assert clean.shape == corrupted.shape == (1, 15)
    hugo, mary = b.to_single_token("Hugo"), b.to_single_token("Mary")
    _, cache = b.run_with_cache(clean)

    def difference(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, hugo] - logits[0, -1, mary]

    low, high = difference(b(corrupted)), difference(b(clean))
    assert low < 0 < high
    heads = patching.get_act_patch_attn_head_out_all_pos(
        b, corrupted, cache, difference, verbose=False
    )
    restored = (heads - low) / (high - low)
    assert divmod(int(restored.argmax()), 4) == (6, 1)
    assert restored[6, 1] > 0.9
    # Block 6 reads the keys and values of block 5.
    read = patching.get_act_patch_attn_head_shared_v_all_pos(
        b, corrupted, cache, difference, verbose=False
    )
    assert not read[:6].isfinite().any()
    assert int(read.nan_to_num(low.item()).amax(1).argmax()) in (6, 7, 8, 9)


# --- what a sweep measures ------------------------------------------------------------------------


def first_logit(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 5]


def sweep_of(bridge: Any, cache: Any, metric: Any, **arguments: Any) -> Any:
    axes = {} if "index_df" in arguments else {"index_axis_names": ("layer", "head")}
    return generic_activation_patch(
        bridge, CORRUPTED, cache, metric, along(2), "z", verbose=False, **axes, **arguments
    )


def test_rows_means_baselines_and_several_metrics_fit_together(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    logits, cache = bridge.run_with_cache(CLEAN)
    rows = sweep_of(bridge, cache, first_logit, reduce="none", baseline=True)
    assert rows.values.shape == (8, 4, 2)
    assert torch.equal(rows.baseline, first_logit(bridge(CORRUPTED)))
    assert torch.equal(rows.effect(), rows.values - rows.baseline)
    mean = sweep_of(bridge, cache, first_logit, reduce="mean")
    assert torch.equal(mean, rows.mean())
    assert torch.equal(rows.stderr(), rows.values.std(-1) / 2**0.5)
    several = sweep_of(
        bridge, cache, {"a": first_logit, "b": lambda x: x[:, -1, 7]}, reduce="none", baseline=True
    )
    assert several.values.shape == (2, 8, 4, 2)
    assert torch.equal(several["a"].values, rows.values)
    assert torch.equal(several.effect()[0], rows.effect())
    clean = first_logit(logits)
    want = (rows.values - rows.baseline) / (clean - rows.baseline)
    assert torch.equal(rows.normalized(clean), want)
    scalar = sweep_of(bridge, cache, {"a": lambda x: first_logit(x).mean()}, baseline=True)
    assert torch.allclose(scalar["a"].values, mean, atol=1e-6)


def test_a_list_of_indices_and_a_frame_of_them_give_one_number_for_each_row(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    _, cache = bridge.run_with_cache(CLEAN)
    grid = sweep_of(bridge, cache, torch.mean)
    index = [[5, 1], [0, 3], [5, 0]]
    want = torch.stack([grid[layer, head] for layer, head in index])
    frame = SimpleNamespace(columns=["layer", "head"], to_numpy=lambda: np.array(index))
    for given in (index, torch.tensor(index), frame):
        torch.testing.assert_close(sweep_of(bridge, cache, torch.mean, index_df=given), want)


def test_a_float64_metric_stays_float64(lab: Lab) -> None:
    bridge = lab.bridge("mha", path="open", dtype=torch.float64)
    _, cache = bridge.run_with_cache(CLEAN)
    assert sweep_of(bridge, cache, torch.mean).dtype == torch.float64


# --- what is refused ------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "both kinds of indices": ({"index_df": [[0, 0]], "index_axis_names": ("layer",)}, "one of"),
    "no indices": ({"index_df": []}, "empty"),
    "a layer too far": ({"index_df": [[8, 0]]}, "layer 8; the model has 8"),
    "an axis that it lacks": ({"index_axis_names": ("layer", "expert")}, '"expert" is none of'),
    "an unknown reduce": ({"reduce": "sum"}, "reduce is 'sum'"),
    "rows where a number is wanted": ({"patching_metric": first_logit}, 'reduce="mean" or "none"'),
    "a number where rows are wanted": ({"reduce": "none"}, "wanted a tensor"),
    "no metric": ({"patching_metric": {}}, "empty"),
    "an argument of other runs": ({"stop_at_layer": 3}, "stop_at_layer= cannot"),
    "a result and its indices": ({"baseline": True, "return_index_df": True}, "leave return_index"),
    "a float input": ({"corrupted_tokens": torch.randn(2, LENGTH, 48)}, "float"),
    "a cache of other names": ({"clean_cache": {}}, r"blocks\.0\.attn\.hook_z.*run_with_cache"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_refused_with_a_reason(lab: Lab, kind: str) -> None:
    bridge = lab.bridge("e2b")
    changes, message = REFUSED[kind]
    arguments: dict[str, Any] = {
        "corrupted_tokens": CORRUPTED,
        "clean_cache": bridge.run_with_cache(CLEAN)[1],
        "patching_metric": torch.mean,
        "patch_setter": along(2),
        "activation_name": "z",
        "verbose": False,
    }
    if not {"index_df", "index_axis_names"} & set(changes):
        arguments["index_axis_names"] = ("layer", "head")
    with pytest.raises(ArgumentError, match=message):
        generic_activation_patch(bridge, **(arguments | changes))


def test_names_that_no_layer_has_are_refused(lab: Lab) -> None:
    bridge = lab.bridge("mha")
    _, cache = bridge.run_with_cache(CLEAN)
    with pytest.raises(UnknownHookError, match="hook_zed"):
        generic_activation_patch(bridge, CORRUPTED, cache, torch.mean, along(), "zed", ("layer",))
    for sweep in (patching.get_act_patch_ple_out, patching.get_act_patch_moe_out):
        with pytest.raises(HookNotApplicableError):
            sweep(bridge, CORRUPTED, cache, torch.mean, verbose=False)


def test_runs_of_other_lengths_or_rows_are_refused(lab: Lab) -> None:
    bridge = lab.bridge("mha")
    _, longer = bridge.run_with_cache(fixtures.tokens(LENGTH + 1))
    with pytest.raises(ArgumentError, match="same number of positions"):
        patching.get_act_patch_attn_out(bridge, CORRUPTED, longer, torch.mean, verbose=False)
    _, more = bridge.run_with_cache(fixtures.tokens(LENGTH, batch=3))
    with pytest.raises(ArgumentError, match="3 rows and the corrupted run 2"):
        patching.get_act_patch_attn_out(bridge, CORRUPTED, more, torch.mean, verbose=False)


def test_a_setter_whose_result_does_not_fit_is_refused(lab: Lab) -> None:
    bridge = lab.bridge("mha")
    _, cache = bridge.run_with_cache(CLEAN)
    with pytest.raises(HookResultError, match=r"wanted None or a tensor \[2, 9, 3, 16\]"):
        generic_activation_patch(
            bridge, CORRUPTED, cache, torch.mean, lambda v, i, c: v[0], "z", ("layer",)
        )


def test_a_clean_run_of_one_row_serves_every_row(lab: Lab) -> None:
    bridge = lab.bridge("mha")
    _, one = bridge.run_with_cache(CLEAN[:1])
    _, two = bridge.run_with_cache(CLEAN[:1].expand(2, -1))
    asked = {"verbose": False}
    got = patching.get_act_patch_attn_out(bridge, CORRUPTED, one, torch.mean, **asked)
    want = patching.get_act_patch_attn_out(bridge, CORRUPTED, two, torch.mean, **asked)
    torch.testing.assert_close(got, want)
    bare = one.remove_batch_dim()
    again = patching.get_act_patch_attn_out(bridge, CORRUPTED, bare, torch.mean, **asked)
    assert torch.equal(again, got)
