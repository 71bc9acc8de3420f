"""Towers that were left out, or that a call does not need."""

from __future__ import annotations

import pytest
import torch

import bezel
from bezel.errors import (
    ArgumentError,
    HookNeverFiredError,
    HookNotApplicableError,
    UnsupportedError,
)
from support import fixtures, media
from support.lab import Lab
from support.media_fixtures import MEDIA_RECIPES

NAMES = tuple(MEDIA_RECIPES)
TOKENS = fixtures.tokens(9)


def parts_of(bridge: bezel.Bridge) -> set[str]:
    return {name.split("_")[0] for name in (p.name for p in bridge.hook_points())} & {
        "vision", "audio",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("modalities", [("text",), "text", ("text", "audio"), ("vision",)])
def test_what_is_left_out_takes_no_memory(
    lab: Lab, name: str, modalities: str | tuple[str, ...]
) -> None:
    whole = lab.bridge(name)
    part = lab.bridge(name, modalities=modalities)
    kept = {"vision", "audio"} & set(modalities if isinstance(modalities, tuple) else ())
    there = parts_of(whole)
    assert parts_of(part) == there & kept
    weights = dict(whole.named_weights())
    wanted = {
        key: weight for key, weight in weights.items()
        if key.split(".")[0] not in {"vision", "audio"} - kept
    }  # fmt: skip
    assert {key for key, _ in part.named_weights()} == set(wanted)
    assert part.n_parameters == sum(weight.numel() for weight in wanted.values())
    assert (part.n_parameters < whole.n_parameters) == bool(there - kept)
    assert torch.equal(part(TOKENS), whole(TOKENS))


@pytest.mark.parametrize("name", NAMES)
def test_media_and_their_names_are_refused_with_the_reason(lab: Lab, name: str) -> None:
    bridge, given = lab.bridge(name, modalities=("text",)), media.widest_case(name)
    with pytest.raises(UnsupportedError, match="pixel_values was given.*modalities"):
        bridge(given.tokens, **given.media)
    with pytest.raises(UnsupportedError, match="modalities"):
        bridge.vision(given.media["pixel_values"], given.media["image_position_ids"])
    for at in ("vision_projector.hook_out", "audio_projector.hook_out"):
        with pytest.raises(HookNotApplicableError, match="modalities|no "):
            bridge.run_with_cache(TOKENS, at)
        with pytest.raises(HookNotApplicableError):
            bridge.add_hook(at, lambda value, hook: None)


@pytest.mark.parametrize("name", NAMES)
def test_a_call_without_media_does_not_touch_the_towers(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name)
    _, cache = bridge.run_with_cache(TOKENS)
    assert not [key for key in cache if key.startswith(("vision_", "audio_"))]
    with pytest.raises(HookNeverFiredError, match="which computes blocks"):
        bridge.run_with_cache(TOKENS, "vision_projector.hook_out")
    ran = []
    hooks = [("vision_projector.*", lambda value, hook: ran.append(hook.name))]
    with bridge.hooks(hooks):  # a rule about a value that this run does not compute
        bridge(TOKENS)
    assert ran == []
    with pytest.raises(HookNeverFiredError):
        bridge.run_with_hooks(TOKENS, hooks)


@pytest.mark.parametrize("name", NAMES)
def test_towers_that_hold_nothing_but_nan_are_not_felt_by_text(lab: Lab, name: str) -> None:
    want = lab.bridge(name)(TOKENS)
    spoilt = bezel.Bridge.from_pretrained(lab.folder(name), dtype=torch.float32)
    for key, weight in spoilt.named_weights():
        if key.split(".")[0] in ("vision", "audio"):
            weight.fill_(torch.nan)
    assert torch.equal(spoilt(TOKENS), want)
    given = media.widest_case(name)
    assert spoilt(given.tokens, **given.media).isnan().any()


def test_other_words_are_refused(lab: Lab) -> None:
    with pytest.raises(ArgumentError, match=r'"text", "vision" and "audio"'):
        bezel.Bridge.from_pretrained(lab.folder("sound"), modalities=("text", "video"))
