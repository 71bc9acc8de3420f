"""What hooks at the names of encoders are told of where their values stand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from support import media
from support.lab import Lab
from support.media_fixtures import MEDIA_RECIPES

NAMES = tuple(MEDIA_RECIPES)


def told(lab: Lab, name: str) -> tuple[dict[str, Any], media.MediaCase]:
    """The hook of every name of an encoder or projector, by name."""
    given = media.widest_case(name)
    bridge = lab.bridge(name)
    seen: dict[str, Any] = {}

    def look(value: torch.Tensor, hook: Any) -> None:
        seen[hook.name] = hook

    hooks = [(p.name, look) for p in bridge.hook_points() if p.name.startswith(("vision", "audio"))]
    bridge.run_with_hooks(given.tokens, hooks, **given.media)
    return seen, given


@pytest.mark.parametrize("name", NAMES)
def test_images_are_told_columns_and_rows(lab: Lab, name: str) -> None:
    seen, given = told(lab, name)
    images = given.inputs.get("image_position_ids")
    assert any(key.startswith("vision") for key in seen)
    for key, hook in seen.items():
        if not key.startswith("vision"):
            continue
        assert hook.positions.shape[-1] == 2
        assert torch.equal(hook.key_positions, hook.positions)
        if images is not None:  # frames of videos stand behind them, all padded alike
            n_images, n_patches = images.shape[:2]
            assert torch.equal(hook.positions[:n_images, :n_patches], images)
            assert (hook.positions[:n_images, n_patches:] == -1).all()


@pytest.mark.parametrize("name", [name for name in NAMES if MEDIA_RECIPES[name].audio])
def test_sound_is_told_the_numbers_of_its_frames(lab: Lab, name: str) -> None:
    seen, given = told(lab, name)
    mask = given.inputs["input_features_mask"].bool()
    step = 1 if MEDIA_RECIPES[name].wrapper == "unified" else 4
    valid = mask[:, ::step]
    want = torch.where(valid, torch.arange(valid.shape[1]), -1)
    assert any(key.startswith("audio") for key in seen)
    for key, hook in seen.items():
        if key.startswith("audio"):
            assert torch.equal(hook.positions, want), key


@pytest.mark.parametrize("name", NAMES)
def test_text_is_told_its_own_positions_beside_media(lab: Lab, name: str) -> None:
    given = media.widest_case(name)
    seen = {}
    lab.bridge(name).run_with_hooks(
        given.tokens,
        [("hook_full_embed", lambda value, hook: seen.update(at=hook.positions))],
        **given.media,
    )
    assert seen["at"].shape == given.tokens.shape
