"""Attribution, edges and ablations, each against runs that do what it says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from bezel.errors import ArgumentError
from bezel.patching import (
    ablated,
    ablation_patch,
    along,
    attribution_patch,
    edge_attribution,
    generic_activation_patch,
)
from support import fixtures
from support.direct_paths import CLEAN, CORRUPTED, LENGTH, added, close, metric, put
from support.lab import Lab

STEP = 1e-5
SLOPE_GAP = 1e-5


def float64(lab: Lab, name: str) -> Any:
    return lab.bridge(name, path="open", dtype=torch.float64)


def slope(bridge: Any, name: str, along: torch.Tensor, *others: Any) -> float:
    """d metric / d t of value + t · along."""
    ends = [
        float(metric(bridge.run_with_hooks(CORRUPTED, [*others, (name, added(t * along))])))
        for t in (STEP, -STEP)
    ]
    return (ends[0] - ends[1]) / (2 * STEP)


# --- attribution ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["e2b", "moe", "twelve_b"])
def test_attributions_are_the_slopes_of_patches(lab: Lab, name: str) -> None:
    bridge = float64(lab, name)
    _, clean = bridge.run_with_cache(CLEAN)
    _, corrupted = bridge.run_with_cache(CORRUPTED)
    scores = attribution_patch(bridge, CORRUPTED, clean, metric)
    assert len(scores) > 25 * bridge.cfg.n_layers
    for at in list(scores)[::7]:
        want = slope(bridge, at, clean[at] - corrupted[at])
        assert close(float(scores[at].sum()), want, SLOPE_GAP), at


def test_attributions_keep_the_axes_that_are_no_widths(lab: Lab) -> None:
    bridge = lab.bridge("moe")
    scores = attribution_patch(bridge, CORRUPTED, CLEAN, metric)
    shapes = {
        "blocks.1.hook_attn_out": (2, LENGTH), "blocks.1.attn.hook_z": (2, LENGTH, 4),
        "blocks.1.attn.hook_pattern": (2, 4, LENGTH, LENGTH),
        "blocks.1.ln1.hook_scale": (2, LENGTH),
        "blocks.1.moe.hook_expert_weights": (2, LENGTH, 3),
    }  # fmt: skip
    assert {name: tuple(scores[name].shape) for name in shapes} == shapes
    assert "hook_tokens" not in scores


def test_a_cache_and_the_tokens_of_a_clean_run_give_the_same_attributions(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    names = "blocks.*.attn.hook_z"
    _, cache = bridge.run_with_cache(CLEAN, names)
    want = attribution_patch(bridge, CORRUPTED, CLEAN, metric, names)
    for got in (
        attribution_patch(bridge, CORRUPTED, cache, metric),
        attribution_patch(bridge, CORRUPTED, dict(cache.items()), metric, names),
    ):
        assert list(got) == list(want)
        assert all(torch.equal(got[name], want[name]) for name in want)


def test_attribution_leaves_hooks_and_the_gradients_of_weights_as_they_were(lab: Lab) -> None:
    bridge = lab.bridge("e2b", trainable=True)
    bridge(CORRUPTED, return_type="loss").backward()
    before = [None if w.grad is None else w.grad.clone() for _, w in bridge.named_weights()]
    attribution_patch(bridge, CORRUPTED, CLEAN, metric, "blocks.*.hook_mlp_out")
    for (name, weight), grad in zip(bridge.named_weights(), before, strict=True):
        assert grad is None if weight.grad is None else torch.equal(weight.grad, grad), name
    assert not bridge.list_hooks()


def test_metrics_and_runs_that_do_not_fit_attribution_are_refused(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    with pytest.raises(ArgumentError, match="no gradient"):
        attribution_patch(bridge, CORRUPTED, CLEAN, lambda x: x.detach().sum(), "hook_embed")
    with pytest.raises(ArgumentError, match="one number"):
        attribution_patch(bridge, CORRUPTED, CLEAN, lambda x: x[:, -1, 0], "hook_embed")
    with pytest.raises(ArgumentError, match="has no"):
        attribution_patch(bridge, CORRUPTED, {}, metric, "hook_embed")


# --- edges ----------------------------------------------------------------------------------------


def moved_inputs(clean: Any, corrupted: Any, at: float) -> list[Any]:
    names = [name for name in ("hook_full_embed", "ple.hook_token") if name in clean]
    return [(name, added(at * (clean[name] - corrupted[name]))) for name in names]


@pytest.mark.parametrize("name", ["e2b", "moe"])
@pytest.mark.parametrize("n_steps", [0, 2])
def test_edges_are_the_slopes_of_what_arrives_along_the_way_of_the_inputs(
    lab: Lab, name: str, n_steps: int
) -> None:
    bridge = float64(lab, name)
    _, clean = bridge.run_with_cache(CLEAN)
    _, corrupted = bridge.run_with_cache(CORRUPTED)
    edges = edge_attribution(bridge, CORRUPTED, CLEAN, metric, n_steps)
    scalars = bridge.layer_scalars.tolist()
    gates = dict(bridge.named_weights())
    n_layers = bridge.cfg.n_layers

    def want(sender: str, first: int, at: str, block: int, label: str) -> None:
        change = (clean[sender] - corrupted[sender]) * math.prod(scalars[first:block])
        if at.endswith("hook_gate"):
            change = change @ gates[f"layers.{block}.ple.gate"].T
        steps = [k / n_steps for k in range(1, n_steps + 1)] or [0.0]
        slopes = [slope(bridge, at, change, *moved_inputs(clean, corrupted, t)) for t in steps]
        u, v = label.split(" -> ")
        assert close(edges[u, v], sum(slopes) / len(steps), SLOPE_GAP), label

    want("hook_full_embed", 0, "blocks.0.hook_attn_in", 0, "embed -> 0_attn_in")
    want("hook_full_embed", 0, "blocks.3.hook_mlp_in", 3, "embed -> 3_mlp_in")
    want("blocks.1.hook_attn_out", 1, "blocks.1.hook_mlp_in", 1, "1_attn_out -> 1_mlp_in")
    want("blocks.1.hook_mlp_out", 1, "blocks.2.hook_attn_in", 2, "1_mlp_out -> 2_attn_in")
    last = f"blocks.{n_layers - 1}.hook_resid_post"
    want("blocks.2.hook_attn_out", 2, last, n_layers, "2_attn_out -> logits")
    if bridge.cfg.d_ple:
        want("blocks.1.hook_ple_out", 1, "blocks.4.hook_attn_in", 4, "1_ple_out -> 4_attn_in")
        want("blocks.1.hook_mlp_out", 1, "blocks.1.ple.hook_gate", 1, "1_mlp_out -> 1_ple_in")
        want("blocks.1.hook_mlp_out", 1, "blocks.3.ple.hook_gate", 3, "1_mlp_out -> 3_ple_in")
        at = "blocks.5.ple.hook_input"
        want(at, 5, at, 5, "ple_inputs -> 5_ple_in")


def test_only_later_branches_have_edges(lab: Lab) -> None:
    edges = edge_attribution(lab.bridge("e2b"), CORRUPTED, CLEAN, metric, 1)
    assert edges.scores.shape == (2 + 3 * 8, 3 * 8 + 1)
    for u, v in (("1_mlp_out", "1_mlp_in"), ("3_ple_out", "3_ple_in"), ("4_attn_out", "0_mlp_in")):
        assert math.isnan(edges[u, v])
    assert math.isfinite(edges["7_ple_out", "logits"])
    assert math.isnan(edges["ple_inputs", "2_attn_in"])
    with pytest.raises(ArgumentError, match="none of embed"):
        edges["9_attn_out", "logits"]


# --- ablations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zero", "mean", "mean_by_pos", "resample"])
def test_ablations_put_in_what_they_say(lab: Lab, kind: Any) -> None:
    bridge = lab.bridge("e2b")
    reference = fixtures.tokens(LENGTH, batch=2, seed=5)
    name = "blocks.3.attn.hook_z"
    _, cache = bridge.run_with_cache(reference)
    z = cache[name]
    want = {
        "zero": torch.zeros_like(z),
        "mean": z.mean(dim=(0, 1)).expand_as(z),
        "mean_by_pos": z.mean(dim=0).expand_as(z),
        "resample": z.flip(0),
    }[kind]
    torch.testing.assert_close(ablated(bridge, reference, kind, name)[name], want)
    got = ablation_patch(
        bridge, CORRUPTED, metric, along(2), "z", ("layer", "head"),
        kind=kind, reference=reference, verbose=False,
    )  # fmt: skip
    values = {f"blocks.{i}.attn.hook_z": torch.zeros_like(z) for i in range(8)} | {name: want}
    loop = generic_activation_patch(
        bridge, CORRUPTED, values, metric, along(2), "z", index_df=[[3, i] for i in range(4)],
        verbose=False,
    )  # fmt: skip
    torch.testing.assert_close(got[3], loop)
    plain = bridge.run_with_hooks(CORRUPTED, [(name, put(want))])
    whole = generic_activation_patch(
        bridge, CORRUPTED, {name: want}, metric, along(), "z", index_df=[[3]], verbose=False
    )
    torch.testing.assert_close(whole[0], metric(plain))


def test_resampled_rows_are_never_their_own(lab: Lab) -> None:
    bridge = lab.bridge("mha")
    rows = fixtures.tokens(LENGTH, batch=5)
    name = "blocks.0.hook_attn_out"
    _, cache = bridge.run_with_cache(rows, name)
    for seed in range(5):
        got = ablated(bridge, cache, "resample", seed=seed)[name]
        order = [next(j for j in range(5) if torch.equal(row, cache[name][j])) for row in got]
        assert sorted(order) == list(range(5))
        assert all(i != j for i, j in enumerate(order))


def test_ablations_that_cannot_be_are_refused(lab: Lab) -> None:
    bridge = lab.bridge("mha")
    with pytest.raises(ArgumentError, match="it has one"):
        ablated(bridge, CORRUPTED[:1], "resample", "hook_embed")
    with pytest.raises(ArgumentError, match="kind is 'median'"):
        ablated(bridge, CORRUPTED, "median", "hook_embed")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match='take "mean_by_pos"'):
        ablated(bridge, CORRUPTED, "mean", "blocks.0.attn.hook_pattern")
