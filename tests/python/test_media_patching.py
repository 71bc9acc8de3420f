"""Sweeps, attributions and SAEs where images and sounds are part of the run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bezel import patching
from bezel.errors import ArgumentError, HookNeverFiredError
from support import fixtures, media
from support.lab import Lab
from support.media_fixtures import MEDIA_RECIPES

NAMES = tuple(MEDIA_RECIPES)
ROUNDING = 1e-9  # in float64


def bridge_of(lab: Lab, name: str) -> Any:
    return lab.bridge(name, path="open", dtype=torch.float64)


def runs(name: str, case: str = "") -> tuple[torch.Tensor, dict[str, Any], dict[str, Any]]:
    """(tokens, corrupted media, clean media): the same places, other pixels and sounds."""
    given = media.cases(name)[case] if case else media.widest_case(name)
    clean = {
        key: value.flip(-1).contiguous() if value.is_floating_point() else value
        for key, value in given.media.items()
    }
    return given.tokens, given.media, clean


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 7].sum() - logits[:, -2, 11].sum()


def patched_by_hooks(
    bridge: Any, name: str, tokens: torch.Tensor, clean: torch.Tensor, place: Any, media_: Any
) -> float:
    """One cell, as a run of its own."""

    def hook(value: torch.Tensor, hook: Any) -> torch.Tensor:
        value[place] = clean[place]
        return value

    return float(metric(bridge.run_with_hooks(tokens, [(name, hook)], **media_)))


def at(*index: int) -> Any:
    """index: axes, in order, of a value outside of blocks."""
    return lambda corrupted, places, clean: set_at(corrupted, places[-len(index) :], index, clean)


def set_at(corrupted: torch.Tensor, places: Any, dims: Any, clean: torch.Tensor) -> torch.Tensor:
    place: list[Any] = [slice(None)] * corrupted.ndim
    for dim, i in zip(dims, places, strict=True):
        place[dim] = i
    corrupted[tuple(place)] = clean[tuple(place)]
    return corrupted


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_over_soft_tokens_is_a_loop_of_runs(lab: Lab, name: str) -> None:
    bridge, (tokens, given, other) = bridge_of(lab, name), runs(name)
    value = "vision_projector.hook_out"
    _, clean = bridge.run_with_cache(tokens, value, **other)
    got = patching.generic_activation_patch(
        bridge, tokens, clean, metric, at(0), value, ("soft",), verbose=False, **given
    )
    assert got.shape == (clean[value].shape[0],)
    for i in range(len(got)):
        want = patched_by_hooks(bridge, value, tokens, clean[value], (i,), given)
        assert float(got[i]) == pytest.approx(want, abs=ROUNDING), i
    assert len({round(float(x), 6) for x in got}) > 1


def test_a_sweep_over_heads_of_encoder_blocks(lab: Lab) -> None:
    bridge, (tokens, given, other) = bridge_of(lab, "sight_e2b"), runs("sight_e2b", "batch")
    value = "vision_encoder.blocks.*.attn.hook_z"
    _, clean = bridge.run_with_cache(tokens, value, **other)
    got = patching.generic_activation_patch(
        bridge, tokens, clean, metric, patching.along(2), value, ("layer", "head"),
        verbose=False, **given,
    )  # fmt: skip
    assert got.shape == (3, 4)
    for layer, head in ((0, 1), (2, 3)):
        name = value.replace("*", str(layer))
        place = (slice(None), slice(None), head)
        want = patched_by_hooks(bridge, name, tokens, clean[name], place, given)
        assert float(got[layer, head]) == pytest.approx(want, abs=ROUNDING)
    with pytest.raises(ArgumentError, match='wants one "\\*" for it'):
        patching.generic_activation_patch(
            bridge, tokens, clean, metric, patching.along(2), value.replace("*", "1"),
            ("layer", "head"), verbose=False, **given,
        )  # fmt: skip


@pytest.mark.parametrize("with_types", [True, False])
@pytest.mark.parametrize("with_hooks", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_over_the_stream_is_a_loop_of_runs(
    lab: Lab, name: str, with_hooks: bool, with_types: bool
) -> None:
    bridge, (tokens, given, other) = bridge_of(lab, name), runs(name)
    if not with_types:
        given, other = (
            {k: v for k, v in one.items() if k != "mm_token_type_ids"} for one in (given, other)
        )
    _, clean = bridge.run_with_cache(tokens, "blocks.*.hook_resid_mid", **other)
    hooks = [("vision_projector.hook_out", lambda value, hook: 0.5 * value)] if with_hooks else []
    with bridge.hooks(hooks):
        got = patching.get_act_patch_resid_mid(
            bridge, tokens, clean, metric, verbose=False, **given
        )
        assert got.shape == (bridge.cfg.n_layers, tokens.shape[1])
        for layer, pos in ((0, 2), (1, 5), (2, tokens.shape[1] - 1)):
            at_layer = f"blocks.{layer}.hook_resid_mid"
            place = (slice(None), pos)
            want = patched_by_hooks(bridge, at_layer, tokens, clean[at_layer], place, given)
            assert float(got[layer, pos]) == pytest.approx(want, abs=ROUNDING)


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_over_what_comes_before_the_blocks(lab: Lab, name: str) -> None:
    bridge, (tokens, given, other) = bridge_of(lab, name), runs(name)
    value = "hook_full_embed"
    _, clean = bridge.run_with_cache(tokens, value, **other)
    got = patching.generic_activation_patch(
        bridge, tokens, clean, metric, at(1), value, ("pos",), verbose=False, **given
    )
    types = bridge.token_types(tokens).type
    for pos in range(tokens.shape[1]):
        if pos % 5 and not types[:, pos].any():
            continue
        place = (slice(None), pos)
        want = patched_by_hooks(bridge, value, tokens, clean[value], place, given)
        assert float(got[pos]) == pytest.approx(want, abs=ROUNDING)


@pytest.mark.parametrize("name", NAMES)
def test_an_attribution_is_difference_times_gradient(lab: Lab, name: str) -> None:
    bridge, (tokens, given, other) = bridge_of(lab, name), runs(name)
    names = ["vision_projector.hook_out", "blocks.1.hook_resid_mid"]
    _, clean = bridge.run_with_cache(tokens, names, **other)
    scores = patching.attribution_patch(bridge, tokens, clean, metric, **given)
    assert list(scores) == names
    assert scores[names[0]].shape == clean[names[0]].shape[:1]
    for value in names:
        logits, cache = bridge.run_with_cache(tokens, value, incl_bwd=True, **given)
        metric(logits).backward()
        want = ((clean[value] - cache[value]) * cache[value + "_grad"]).sum(-1)
        torch.testing.assert_close(scores[value], want)


def test_attribution_of_a_mel_spectrogram_keeps_its_frames_and_bands(lab: Lab) -> None:
    bridge, (tokens, given, other) = bridge_of(lab, "sound"), runs("sound")
    at_start = ["audio_encoder.hook_features", "audio_encoder.subsample.0.hook_out"]
    _, clean = bridge.run_with_cache(tokens, at_start, **other)
    scores = patching.attribution_patch(bridge, tokens, clean, metric, **given)
    assert scores[at_start[0]].shape == clean[at_start[0]].shape
    assert scores[at_start[1]].shape == clean[at_start[1]].shape[:-1]


def test_paths_and_ablations_take_media(lab: Lab) -> None:
    bridge, (tokens, given, other) = bridge_of(lab, "sight_moe"), runs("sight_moe")
    at_block = "blocks.0.hook_attn_out"
    _, clean = bridge.run_with_cache(tokens, at_block, **other)
    moved = patching.path_patch(
        bridge, tokens, clean, sender=at_block, receivers="blocks.2.attn.hook_q", metric=metric,
        **given,
    )  # fmt: skip
    assert float(moved) != float(metric(bridge(tokens, **given)))
    value = "vision_projector.hook_out"
    ablated = patching.ablation_patch(
        bridge, tokens, metric, at(0), value, ("soft",), kind="zero", verbose=False, **given
    )
    _, zeros = bridge.run_with_cache(tokens, value, **given)
    want = patched_by_hooks(bridge, value, tokens, torch.zeros_like(zeros[value]), (0,), given)
    assert float(ablated[0]) == pytest.approx(want, abs=ROUNDING)
    with pytest.raises(ArgumentError, match="has no rows to take means over"):
        patching.ablated(bridge, tokens, "mean", value, **given)


def test_without_media_a_sweep_over_them_is_refused(lab: Lab) -> None:
    bridge, (tokens, _, other) = bridge_of(lab, "sight_e2b"), runs("sight_e2b")
    value = "vision_projector.hook_out"
    _, clean = bridge.run_with_cache(tokens, value, **other)
    with pytest.raises(HookNeverFiredError):
        patching.generic_activation_patch(
            bridge, fixtures.tokens(6), clean, metric, at(0), value, ("soft",), verbose=False
        )
