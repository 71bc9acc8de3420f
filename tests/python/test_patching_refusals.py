"""What attribution, edges, paths and ablations refuse, and what they take besides."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bezel.errors import ArgumentError, UnknownHookError
from bezel.patching import (
    ablated,
    ablation_patch,
    along,
    attribution_patch,
    edge_attribution,
    generic_activation_patch,
    path_patch,
)
from support import fixtures
from support.direct_paths import CLEAN, CORRUPTED, LENGTH, metric
from support.lab import Lab

N_PADS = 3
Z = "blocks.3.attn.hook_z"


def padded(tokens: torch.Tensor) -> torch.Tensor:
    """With ids on the left that only a mask can tell from text."""
    return torch.cat([torch.full((len(tokens), N_PADS), 7), tokens], 1)


MASK = (torch.arange(N_PADS + LENGTH) >= N_PADS).long().expand(len(CORRUPTED), -1)


def paths(bridge: Any, tokens: torch.Tensor, clean: Any, **arguments: Any) -> torch.Tensor:
    found = path_patch(
        bridge, tokens, clean, sender="blocks.1.hook_attn_out", receivers=Z, metric=metric,
        **arguments,
    )  # fmt: skip
    assert isinstance(found, torch.Tensor)
    return found


def edges(bridge: Any, tokens: torch.Tensor, clean: Any, **arguments: Any) -> torch.Tensor:
    return edge_attribution(bridge, tokens, clean, metric, 2, **arguments).scores.nan_to_num(-1.0)


def attributions(bridge: Any, tokens: torch.Tensor, clean: Any, **arguments: Any) -> torch.Tensor:
    return attribution_patch(bridge, tokens, clean, metric, Z, **arguments)[Z][:, -LENGTH:]


WAYS = {"paths": paths, "edges": edges, "attributions": attributions}


@pytest.mark.parametrize("way", WAYS)
def test_arguments_of_a_run_hold_in_every_run(lab: Lab, way: str) -> None:
    """Padding that only attention_mask tells changes nothing."""
    bridge, score = lab.bridge("e2b"), WAYS[way]
    want = score(bridge, CORRUPTED, CLEAN)
    got = score(bridge, padded(CORRUPTED), padded(CLEAN), attention_mask=MASK)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    unmasked = score(bridge, padded(CORRUPTED), padded(CLEAN))
    assert not torch.allclose(unmasked, want, rtol=1e-3, atol=1e-3)


def test_arguments_of_a_run_hold_in_the_run_that_ablations_take_values_from(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), padded(CORRUPTED)
    want = ablated(bridge, CORRUPTED, "mean_by_pos", Z)[Z]
    got = ablated(bridge, tokens, "mean_by_pos", Z, attention_mask=MASK)[Z][:, -LENGTH:]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    sweep = (metric, along(2), "z", ("layer", "head"))
    plain = ablation_patch(bridge, CORRUPTED, *sweep, kind="resample", verbose=False)
    swept = ablation_patch(
        bridge, tokens, *sweep, kind="resample", verbose=False, attention_mask=MASK
    )
    torch.testing.assert_close(swept, plain, rtol=1e-4, atol=1e-4)


def test_the_logits_that_are_kept_are_those_that_an_ablation_takes(lab: Lab) -> None:
    bridge = lab.bridge("e2b")

    def put_first(logits: torch.Tensor, index: Any, other: torch.Tensor) -> None:
        assert other.shape == logits.shape == (2, 2, fixtures.VOCAB)
        logits[:, 0] = other[:, 0]

    swept = ablation_patch(
        bridge, CORRUPTED, lambda logits: logits[0, 0, 5], put_first, "hook_unembed", ("d_vocab",),
        kind="resample", verbose=False, logits_to_keep=2,
    )  # fmt: skip
    assert isinstance(swept, torch.Tensor)
    want = bridge(CORRUPTED)[1, -2, 5].expand_as(swept)
    torch.testing.assert_close(swept, want, rtol=1e-4, atol=1e-4)


def test_arguments_of_a_sweep_are_not_those_of_another_reference(lab: Lab) -> None:
    bridge, tokens, other = lab.bridge("e2b"), padded(CORRUPTED), padded(CLEAN)
    sweep = (along(2), "z", ("layer", "head"))
    values = ablated(bridge, other, "mean_by_pos", "blocks.*.attn.hook_z")
    want = generic_activation_patch(
        bridge, tokens, values, metric, *sweep, verbose=False, attention_mask=MASK
    )
    got = ablation_patch(
        bridge, tokens, metric, *sweep, kind="mean_by_pos", reference=other, verbose=False,
        attention_mask=MASK,
    )  # fmt: skip
    torch.testing.assert_close(got, want)


def test_the_mean_is_what_an_ablation_takes_when_not_told(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    sweep = (metric, along(2), "z", ("layer", "head"))
    means = [
        ablation_patch(bridge, CORRUPTED, *sweep, verbose=False, **arguments)
        for arguments in ({}, {"kind": "mean"}, {"reference": CORRUPTED})
    ]
    assert torch.equal(means[0], means[1])
    assert torch.equal(means[0], means[2])


def test_a_seed_chooses_the_rows_of_a_resampling(lab: Lab) -> None:
    """The same ones for every name."""
    bridge, rows = lab.bridge("mha"), fixtures.tokens(LENGTH, batch=5)
    names = ["hook_tokens", "hook_embed", "blocks.0.hook_resid_pre"]
    first, again, *others = (
        ablated(bridge, rows, "resample", names, seed=seed) for seed in (1, 1, 2, 3, 4)
    )
    assert list(first) == names[1:]
    assert torch.equal(first["hook_embed"], first["blocks.0.hook_resid_pre"])
    assert torch.equal(first["hook_embed"], again["hook_embed"])
    assert not all(torch.equal(first["hook_embed"], other["hook_embed"]) for other in others)
    assert list(ablated(bridge, rows, "zero", names)) == names[1:]
    sweep = (metric, along(2), "z", ("layer", "head"))
    swept = [
        ablation_patch(bridge, rows, *sweep, kind="resample", seed=seed, verbose=False)
        for seed in range(4)
    ]
    assert not all(torch.equal(swept[0], one) for one in swept)
    swept = [
        ablation_patch(
            bridge, rows, *sweep, kind="resample", reference=rows, seed=seed, verbose=False
        )
        for seed in range(4)
    ]
    assert not all(torch.equal(swept[0], one) for one in swept)


# --- runs that do not fit each other --------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_runs_of_two_lengths_are_refused(lab: Lab, way: str) -> None:
    bridge = lab.bridge("e2b")
    message = r"in the clean run and \[2, 7, .* in the corrupted one"
    for clean in (CLEAN[:, 1:], CLEAN[:, :1], fixtures.tokens(LENGTH, batch=3)):
        with pytest.raises(ArgumentError, match=message):
            WAYS[way](bridge, CORRUPTED, clean)


@pytest.mark.parametrize("way", ["edges", "attributions"])
def test_one_clean_row_serves_all(lab: Lab, way: str) -> None:
    bridge, score = lab.bridge("e2b"), WAYS[way]
    want = score(bridge, CORRUPTED, CLEAN[:1].expand(2, -1))
    got = score(bridge, CORRUPTED, CLEAN[:1])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_a_clean_cache_gives_what_its_tokens_give(lab: Lab, way: str) -> None:
    """With a batch axis or, for one row, without it."""
    bridge, score = lab.bridge("e2b"), WAYS[way]
    want = score(bridge, CORRUPTED[:1], CLEAN[:1])
    _, cache = bridge.run_with_cache(CLEAN[:1])
    for given in (cache, cache.remove_batch_dim(), dict(cache.items())):
        got = score(bridge, CORRUPTED[:1], given)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_a_clean_cache_without_the_value_is_refused(lab: Lab, way: str) -> None:
    bridge = lab.bridge("e2b")
    _, cache = bridge.run_with_cache(CLEAN, "hook_logits")
    with pytest.raises(ArgumentError, match="the clean cache has no .*; record it, or give tokens"):
        WAYS[way](bridge, CORRUPTED, cache)


# --- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["edges", "attributions"])
def test_attribution_needs_no_gradients_switched_on(lab: Lab, way: str) -> None:
    bridge, score = lab.bridge("e2b"), WAYS[way]
    want = score(bridge, CORRUPTED, CLEAN)
    with torch.no_grad():
        assert torch.equal(score(bridge, CORRUPTED, CLEAN), want)


@pytest.mark.parametrize("way", WAYS)
def test_no_graph_is_left_behind_a_trainable_model(lab: Lab, way: str) -> None:
    bridge = lab.bridge("e2b", trainable=True)
    assert not WAYS[way](bridge, CORRUPTED, CLEAN).requires_grad
    values = ablated(bridge, CORRUPTED, "mean", Z)
    assert not values[Z].requires_grad


def test_a_metric_that_is_no_tensor_is_refused(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    for way in (attribution_patch, edge_attribution):
        with pytest.raises(ArgumentError, match="one number, a tensor"):
            way(bridge, CORRUPTED, CLEAN, lambda logits: float(logits.detach().sum()))
        with pytest.raises(ArgumentError, match="no gradient"):
            way(bridge, CORRUPTED, CLEAN, lambda logits: torch.tensor(1.0))


def test_a_negative_number_of_steps_is_refused(lab: Lab) -> None:
    with pytest.raises(ArgumentError, match="n_steps is -1; wanted 0 or more"):
        edge_attribution(lab.bridge("e2b"), CORRUPTED, CLEAN, metric, -1)


def test_names_that_no_model_knows_are_refused(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    for sender, receivers in (("blocks.1.hook_attn", Z), ("hook_embed", ["blocks.3.attn.z"])):
        with pytest.raises(UnknownHookError):
            path_patch(bridge, CORRUPTED, CLEAN, sender=sender, receivers=receivers, metric=metric)
    with pytest.raises(UnknownHookError):
        attribution_patch(bridge, CORRUPTED, CLEAN, metric, "blocks.1.hook_attn")
    with pytest.raises(UnknownHookError):
        ablated(bridge, CORRUPTED, "zero", "blocks.1.hook_attn")
