"""Encoders without a text around them: the values of a whole run, under the same names."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bezel.errors import (
    ArgumentError,
    HookNeverFiredError,
    HookResultError,
    UnknownHookError,
    UnsupportedError,
)
from support import media
from support.lab import Lab
from support.media_fixtures import MEDIA_RECIPES

NAMES = tuple(MEDIA_RECIPES)
WITH_EARS = tuple(name for name in NAMES if MEDIA_RECIPES[name].audio)
SEEN = ("pixel_values", "image_position_ids", "pixel_values_videos", "video_position_ids")
HEARD = ("input_features", "input_features_mask")


def media_of(given: media.MediaCase, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    return {name: given.media[name] for name in names if name in given.media}


def alone(bridge: Any, given: media.MediaCase, part: str, **arguments: Any) -> Any:
    if part == "vision":
        return bridge.vision(**media_of(given, SEEN), **arguments)
    return bridge.audio(**media_of(given, HEARD), **arguments)


PARTS = [(name, "vision") for name in NAMES] + [(name, "audio") for name in WITH_EARS]


@pytest.mark.parametrize("path", ["automatic", "open"])
@pytest.mark.parametrize(("name", "part"), PARTS)
def test_the_values_are_those_of_a_whole_run(lab: Lab, name: str, part: str, path: str) -> None:
    given, bridge = media.widest_case(name), lab.bridge(name, path=path)
    features, cache = alone(bridge, given, part)
    names = [p.name for p in bridge.hook_points() if p.name.startswith(part + "_")]
    shown = [p.name for p in bridge.hook_points() if p.access == "edit"]
    assert list(cache) == [one for one in names if one in shown]
    both = [*cache, "hook_full_embed"]
    _, want = bridge.run_with_cache(given.tokens, both, **given.media)
    for key in cache:
        assert torch.equal(cache[key], want[key]), key
    types = bridge.token_types(given.tokens).type
    full = want["hook_full_embed"]
    if part == "audio":
        assert torch.equal(features, full[types == media.AUDIO])
        return
    n_images = int((types == media.IMAGE).sum())
    assert torch.equal(features[:n_images], full[types == media.IMAGE])
    assert torch.equal(features[n_images:], full[types == media.VIDEO])


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_hooks_of_the_call_and_standing_ones_apply(lab: Lab, name: str, part: str) -> None:
    given, bridge = media.widest_case(name), lab.bridge(name, path="open")
    at = f"{part}_projector.hook_out"
    plain, _ = alone(bridge, given, part, names_filter=at)
    calls = []

    def double(value: torch.Tensor, hook: Any) -> torch.Tensor:
        calls.append(hook.name)
        return 2 * value

    edited, cache = alone(bridge, given, part, names_filter=at, fwd_hooks=[(at, double)])
    assert torch.equal(edited, 2 * plain)
    assert cache[at].numel() >= edited.numel()
    with bridge.hooks([(at, double), ("hook_logits", double)]):
        edited, _ = alone(bridge, given, part, names_filter=at)
    assert torch.equal(edited, 2 * plain)
    assert calls == [at, at]


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_gradients_reach_the_inputs_and_the_names(lab: Lab, name: str, part: str) -> None:
    given = media.widest_case(name)
    bridge = lab.bridge(name, path="open", dtype=torch.float64)
    inputs = media_of(given, SEEN if part == "vision" else HEARD)
    inputs = {
        key: value.double().requires_grad_() if value.is_floating_point() else value
        for key, value in inputs.items()
    }
    at = f"{part}_projector.hook_in"
    seen = []
    run = bridge.vision if part == "vision" else bridge.audio
    features, cache = run(
        **inputs, names_filter=at, incl_bwd=True,
        bwd_hooks=[(at, lambda gradient, hook: seen.append(gradient.shape))],
    )  # fmt: skip
    features.pow(2).sum().backward()
    assert seen == [cache[at].shape]
    assert cache[at + "_grad"].abs().max() > 0
    given_floats = [value for value in inputs.values() if value.is_floating_point()]
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in given_floats)


def test_the_cache_is_a_cache(lab: Lab) -> None:
    given, bridge = media.widest_case("sight_e2b"), lab.bridge("sight_e2b")
    _, cache = alone(bridge, given, "vision", names_filter="vision_encoder.blocks.*.attn.hook_z")
    assert len(cache) == 3
    bare = cache.remove_batch_dim()  # a value of images has no batch
    assert bare["vision_encoder.blocks.0.attn.hook_z"].ndim == 4


def test_names_of_the_text_cannot_fire(lab: Lab) -> None:
    given, bridge = media.widest_case("sound"), lab.bridge("sound")
    for name in ("hook_embed", "blocks.1.attn.hook_z", "audio_encoder.hook_out"):
        with pytest.raises(HookNeverFiredError, match="which computes images"):
            alone(bridge, given, "vision", names_filter=name)
    with pytest.raises(UnknownHookError):
        alone(bridge, given, "vision", names_filter="vision_encoder.hook_pool")
    hooks = [("vision_encoder.hook_out", lambda value, hook: value[:1])]
    with pytest.raises(HookResultError):
        alone(bridge, given, "vision", fwd_hooks=hooks)


def test_what_a_model_does_not_have_is_refused(lab: Lab) -> None:
    given = media.widest_case("sight_e2b")
    with pytest.raises(UnsupportedError, match="no part for images"):
        alone(lab.bridge("e2b"), given, "vision")
    with pytest.raises(UnsupportedError, match="no part for audio"):
        alone(lab.bridge("sight_e2b"), media.widest_case("sound"), "audio")
    with pytest.raises(ArgumentError, match="nothing to encode; wanted one of pixel_values"):
        lab.bridge("sight_e2b").vision()
