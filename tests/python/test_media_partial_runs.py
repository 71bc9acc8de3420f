"""Runs with images and sound that begin or end in the middle."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bezel.errors import ArgumentError
from support import media
from support.lab import Lab
from support.media_fixtures import MEDIA_RECIPES

CASE = "batch"


def whole(lab: Lab, name: str) -> tuple[Any, Any, Any, Any]:
    bridge, given = lab.bridge(name), media.cases(name)[CASE]
    logits, cache = bridge.run_with_cache(given.tokens, **given.media)
    return bridge, given, logits, cache


@pytest.mark.parametrize("name", MEDIA_RECIPES)
@pytest.mark.parametrize("layer", [1, -1])
def test_a_run_from_the_middle_needs_no_encoder(lab: Lab, name: str, layer: int) -> None:
    bridge, given, logits, cache = whole(lab, name)
    types = {"mm_token_type_ids": given.media.get("mm_token_type_ids")}
    begun = bridge(
        cache["resid_pre", layer],
        start_at_layer=layer,
        tokens=given.tokens,
        start_state=cache,
        attention_mask=given.media.get("attention_mask"),
        **types,
    )
    torch.testing.assert_close(begun, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in MEDIA_RECIPES if n in ("sight_e2b", "sound")])
def test_per_layer_embeddings_of_media_are_not_made_without_them(lab: Lab, name: str) -> None:
    bridge, given, _, cache = whole(lab, name)
    needed = {n: v for n, v in cache.items() if n != "ple.hook_inputs"}
    with pytest.raises(ArgumentError, match=r"media tokens needs \"ple\.hook_inputs\""):
        bridge(cache["resid_pre", 1], start_at_layer=1, tokens=given.tokens, start_state=needed)


@pytest.mark.parametrize("name", MEDIA_RECIPES)
def test_a_run_that_stops_in_the_middle_has_the_whole_runs_stream(lab: Lab, name: str) -> None:
    bridge, given, _, cache = whole(lab, name)
    stream = bridge(given.tokens, stop_at_layer=1, **given.media)
    torch.testing.assert_close(stream, cache["resid_pre", 1], rtol=1e-4, atol=1e-4)
