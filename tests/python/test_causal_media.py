"""Every name of the towers is causal, and an edit that changes nothing is free."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bezel.errors import HookNeverFiredError, HookResultError
from bezel.names import HookPoint, is_of_media
from support import fixtures, media
from support.lab import Lab
from support.media_fixtures import MEDIA_RECIPES

NAMES = tuple(MEDIA_RECIPES)
PATHS = ("automatic", "open")
VISIBLE = 1e-4  # above rounding
STEP = 1e-6
IDENTITIES = {
    "the value": lambda value, hook: value,
    "a copy": lambda value, hook: value.clone(),
    "nothing": lambda value, hook: None,
}
# Of every kind: entrances, blocks, norms, attention, convolutions, projectors.
DIFFERENTIATED = (
    "vision_encoder.hook_patches", "vision_encoder.hook_pos_embed", "vision_encoder.hook_pooled",
    "vision_encoder.blocks.1.ln1.hook_scale", "vision_encoder.blocks.1.attn.hook_rot_k",
    "vision_encoder.blocks.1.attn.hook_pattern", "vision_encoder.blocks.2.attn.hook_result",
    "vision_encoder.blocks.0.hook_mlp_in", "vision_embedder.hook_patches",
    "vision_embedder.hook_ln2", "vision_projector.hook_scale", "vision_projector.hook_out",
    "audio_encoder.hook_features", "audio_encoder.subsample.0.hook_out",
    "audio_encoder.blocks.1.ff1.hook_out", "audio_encoder.blocks.1.attn.hook_v",
    "audio_encoder.blocks.1.attn.hook_pattern", "audio_encoder.blocks.2.conv.hook_glu",
    "audio_encoder.blocks.0.hook_resid_post", "audio_projector.hook_in",
)  # fmt: skip


def tower_points(bridge: Any) -> list[HookPoint]:
    return [point for point in bridge.hook_points() if is_of_media(point.name)]


def run(bridge: Any, name: str, hooks: Any = (), **arguments: Any) -> torch.Tensor:
    given = media.widest_case(name)
    return bridge.run_with_hooks(given.tokens, hooks, **given.media, **arguments)


def noise_like(value: torch.Tensor, name: str) -> torch.Tensor:
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name)))
    return noise.to(value.dtype)


def other_value(value: torch.Tensor, hook: Any) -> torch.Tensor:
    noise = noise_like(value, hook.name)
    return value * (1 + 2 * noise) if hook.name.endswith("scale") else value + 0.5 * noise


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
def test_each_name_fires_once_with_its_shape_and_changes_the_logits(
    lab: Lab, name: str, path: str
) -> None:
    bridge = lab.bridge(name, path=path)
    plain, points = run(bridge, name), tower_points(bridge)
    for point in points:
        calls = []

        def edit(value: torch.Tensor, hook: Any, calls: Any = calls) -> torch.Tensor:
            calls.append((hook.name, value.shape))
            return other_value(value, hook)

        edited = run(bridge, name, [(point.name, edit)])
        assert [called for called, _ in calls] == [point.name]
        sizes = zip(point.shape, calls[0][1], strict=True)
        assert all(size in (None, got) for size, got in sizes), point.name
        assert torch.isfinite(edited).all(), point.name
        assert (edited - plain).abs().max() > VISIBLE, point.name


@pytest.mark.parametrize("name", NAMES)
def test_an_identity_edit_at_each_name_changes_no_bit_on_the_open_path(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name, path="open")
    plain = run(bridge, name)
    for point in tower_points(bridge):
        edited = run(bridge, name, [(point.name, IDENTITIES["the value"])])
        assert torch.equal(edited, plain), point.name


@pytest.mark.parametrize("identity", IDENTITIES)
@pytest.mark.parametrize("name", NAMES)
def test_identity_edits_at_all_names_at_once_change_no_bit(
    lab: Lab, name: str, identity: str
) -> None:
    bridge = lab.bridge(name, path="open")
    # An edit of ln1 and one of a per-head copy, which gets its own norm, exclude each other.
    names = [point.name for point in tower_points(bridge) if ".ln1." not in point.name]
    hooks = [(at, IDENTITIES[identity]) for at in names]
    assert torch.equal(run(bridge, name, hooks), run(bridge, name))


@pytest.mark.parametrize("name", NAMES)
def test_a_value_of_another_shape_is_refused_by_name(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name)
    for point in tower_points(bridge):
        hooks = [(point.name, lambda value, hook: value[:-1])]
        with pytest.raises(HookResultError) as raised:
            run(bridge, name, hooks)
        assert point.name in str(raised.value)


@pytest.mark.parametrize("name", NAMES)
def test_without_media_no_name_can_fire(lab: Lab, name: str) -> None:
    bridge, tokens = lab.bridge(name), fixtures.tokens(5)
    for point in tower_points(bridge):
        with pytest.raises(HookNeverFiredError):
            bridge.run_with_hooks(tokens, [(point.name, other_value)])
        with pytest.raises(HookNeverFiredError):
            bridge.run_with_cache(tokens, point.name)


@pytest.mark.parametrize("name", NAMES)
def test_names_on_demand_are_recorded_when_named_and_not_otherwise(lab: Lab, name: str) -> None:
    bridge, given = lab.bridge(name), media.widest_case(name)
    _, cache = bridge.run_with_cache(given.tokens, **given.media)
    for point in tower_points(bridge):
        assert (point.name in cache) == (point.access == "edit"), point.name
    named = [point.name for point in tower_points(bridge) if point.access == "on_demand"]
    if not named:
        assert MEDIA_RECIPES[name].wrapper == "unified"
        return
    _, cache = bridge.run_with_cache(given.tokens, named, **given.media)
    assert list(cache) == named
    for at in (at for at in named if at.endswith("attn.hook_result")):
        block = at.rpartition("attn.")[0]
        _, out = bridge.run_with_cache(given.tokens, block + "attn.hook_out", **given.media)
        assert bool(torch.isfinite(cache[at]).all())
        assert cache[at].sum(2).shape == out[block + "attn.hook_out"].shape


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_at_a_name_is_the_slope_of_the_loss(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name, path="open", dtype=torch.float64)
    here = {point.name for point in tower_points(bridge)}
    given = media.widest_case(name)
    names = [at for at in DIFFERENTIATED if at in here]
    seen: dict[str, torch.Tensor] = {}
    hooks = [(at, lambda gradient, hook: seen.__setitem__(hook.name, gradient)) for at in names]
    with bridge.hooks(bwd_hooks=hooks):
        _, cache = bridge.run_with_cache(
            given.tokens, names, incl_bwd=True, return_type="loss", **given.media
        )
    for at in names:
        gradient = cache[at + "_grad"]
        assert torch.equal(seen[at], gradient), at
        along = noise_like(gradient, at)

        def loss(by: float, at: str = at, along: torch.Tensor = along) -> float:
            moved = [(at, lambda value, hook: value + by * along)]
            return float(run(bridge, name, moved, return_type="loss"))

        slope = (loss(STEP) - loss(-STEP)) / (2 * STEP)
        want = float((gradient * along).sum())
        assert slope == pytest.approx(want, rel=1e-4, abs=1e-8), at
