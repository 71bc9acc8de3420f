"""What runs with media would keep, before they run; and how towers look in the tree."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bezel.errors import ArgumentError, HookNeverFiredError
from support import fixtures, media, saes
from support.lab import Lab
from support.media_fixtures import MEDIA_RECIPES

NAMES = tuple(MEDIA_RECIPES)


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_is_what_the_run_keeps(lab: Lab, name: str) -> None:
    for case, given in media.cases(name).items():
        bridge = lab.bridge(name)
        plan = bridge.plan(given.tokens, **given.media)
        _, cache = bridge.run_with_cache(given.tokens, **given.media)
        planned = {value.name: (value.shape, value.dtype) for value in plan.values}
        assert planned == {key: (tuple(v.shape), v.dtype) for key, v in cache.items()}, case


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_of_a_shape_is_of_text(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name)
    names = {value.name for value in bridge.plan((2, 5)).values}
    assert not [one for one in names if one.startswith(("vision_", "audio_"))]
    with pytest.raises(HookNeverFiredError):
        bridge.plan((2, 5), "vision_projector.hook_out")
    given = media.cases(name)["several_images"]
    pixels, positions = given.media["pixel_values"], given.media["image_position_ids"]
    with pytest.raises(ArgumentError, match="tokens hold 0 image tokens"):
        bridge.plan((2, 5), pixel_values=pixels, image_position_ids=positions)


@pytest.mark.parametrize("name", NAMES)
def test_the_tree_shows_towers_before_the_text(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name)
    lines = repr(bridge).splitlines()
    for point in bridge.hook_points():
        prefix, _, rest = point.name.partition("blocks.")
        shown = rest.partition(".")[2] if rest else prefix
        assert any(shown in line for line in lines), point.name
    heads = [line.split()[1] for line in lines if "blocks." in line]
    if MEDIA_RECIPES[name].wrapper != "unified":
        assert heads[0] == "vision_encoder.blocks.{0-2}."
    if name == "sound":
        assert heads[1] == "audio_encoder.blocks.{0-2}."
    assert heads[-1].startswith("blocks.")
    assert [line[0] for line in lines[1:]].count("└") == 1
    assert lines[-1].startswith("└─ hook_logits")


@pytest.mark.parametrize(
    "at", ["vision_encoder.blocks.1.hook_resid_post", "vision_encoder.hook_out"]
)
def test_an_sae_stands_in_an_encoder(lab: Lab, at: str) -> None:
    bridge, given = lab.bridge("sight_e2b", path="open"), media.widest_case("sight_e2b")
    width = next(p.shape[-1] for p in bridge.hook_points() if p.name == at)
    sae = saes.random_sae("jumprelu", width, at)
    inside = f"{at}.hook_sae_acts_post"
    plain = bridge(given.tokens, **given.media)
    _, cache = bridge.run_with_cache_with_saes(
        given.tokens, [inside, at], saes=[sae], **given.media
    )
    assert cache[inside].shape == (*cache[at].shape[:-1], sae.cfg.d_sae)
    got = bridge.run_with_saes(given.tokens, saes=[sae], **given.media)
    assert (got - plain).abs().max() > 1e-4
    kept = bridge.run_with_saes(given.tokens, saes=[sae], use_error_term=True, **given.media)
    assert torch.equal(kept, plain)

    def ablate(features: torch.Tensor, hook: Any) -> None:
        features[..., :2] = 0

    hooks = [(inside, ablate)]
    bridge.run_with_hooks_with_saes(given.tokens, saes=[sae], fwd_hooks=hooks, **given.media)
    bridge.add_sae(sae)
    try:
        tokens = fixtures.tokens(5)
        text = bridge(tokens)  # it does not come to the SAE
        features, _ = bridge.vision(
            given.media["pixel_values"], given.media["image_position_ids"], names_filter=at
        )
        planned = bridge.plan(given.tokens, [inside], **given.media).values
    finally:
        bridge.reset_saes()
    assert torch.equal(text, bridge(tokens))
    assert [(one.name, one.shape) for one in planned] == [(inside, tuple(cache[inside].shape))]
    assert torch.isfinite(features).all()
