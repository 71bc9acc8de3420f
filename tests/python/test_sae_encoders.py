"""SAEs at values of the encoders of images and sound: in runs of these alone and of prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bezel.errors import HookNeverFiredError, HookNotApplicableError
from support import media, saes
from support.lab import Lab

NAME = "sound"  # it sees, too
PLACES = {
    "vision": "vision_encoder.blocks.1.hook_resid_post",
    "vision, one row a soft token": "vision_projector.hook_out",
    "vision, heads together": "vision_encoder.blocks.0.attn.hook_z",
    "audio": "audio_encoder.blocks.1.hook_resid_post",
}
INSIDE = ("hook_sae_input", "hook_sae_acts_pre", "hook_sae_acts_post", "hook_sae_recons")
TENSORS = {
    "vision": ("pixel_values", "image_position_ids", "pixel_values_videos", "video_position_ids"),
    "audio": ("input_features", "input_features_mask"),
}
GIVEN = media.widest_case(NAME)


@pytest.fixture
def seeing(lab: Lab) -> Iterator[Any]:
    shared = lab.bridge(NAME, path="open")
    yield shared
    shared.reset_hooks()
    shared.reset_saes()


def alone(bridge: Any, at: str, *arguments: Any, **options: Any) -> Any:
    part = at.partition("_")[0]
    tensors = {name: GIVEN.media[name] for name in TENSORS[part]}
    return getattr(bridge, part)(*arguments, **tensors, **options)


def sae_at(bridge: Any, at: str) -> Any:
    """As wide as the value; heads together."""
    _, cache = alone(bridge, at, names_filter=at)
    n_axes = 2 if at.endswith("hook_z") else 1
    return saes.random_sae("jumprelu", cache[at].flatten(-n_axes).shape[-1], at)


@pytest.mark.parametrize("place", PLACES)
def test_its_values_are_kept_by_name_and_are_its_formula(seeing: Any, place: str) -> None:
    at = PLACES[place]
    sae = sae_at(seeing, at)
    _, clean = alone(seeing, at, names_filter=at)
    seeing.add_sae(sae)
    values = [f"{at}.{part}" for part in INSIDE]
    _, cache = alone(seeing, at, names_filter=values)
    assert list(cache) == values
    x = clean[at].flatten(-2) if at.endswith("hook_z") else clean[at]
    assert torch.equal(cache[f"{at}.hook_sae_input"], x)
    features = cache[f"{at}.hook_sae_acts_post"].flatten(0, -2)
    for row in (0, len(features) - 1):  # number by number
        want = torch.tensor(saes.features_by_loops(sae, x.flatten(0, -2)[row].double().tolist()))
        torch.testing.assert_close(features[row].double(), want.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("place", PLACES)
def test_a_run_alone_has_the_values_of_a_whole_run(seeing: Any, place: str) -> None:
    at = PLACES[place]
    seeing.add_sae(sae_at(seeing, at))
    for names in (None, [at, f"{at}.hook_sae_*"], f"*{at.partition('.')[2]}*", "*.hook_sae_output"):
        features, cache = alone(seeing, at, names_filter=names)
        _, want = seeing.run_with_cache(GIVEN.tokens, [*cache, "hook_full_embed"], **GIVEN.media)
        assert f"{at}.hook_sae_output" in cache
        for key in cache:
            assert torch.equal(cache[key], want[key]), key
        assert features.shape[-1] == seeing.cfg.d_model


@pytest.mark.parametrize("place", PLACES)
def test_hooks_inside_it_change_the_features_and_hear_gradients(seeing: Any, place: str) -> None:
    at = PLACES[place]
    post, heard = f"{at}.hook_sae_acts_post", []
    seeing.add_sae(sae_at(seeing, at), use_error_term=True)
    plain, _ = alone(seeing, at, names_filter=post)

    def push(value: torch.Tensor, hook: Any) -> None:
        value[..., 3] += 5

    pushed, cache = alone(
        seeing, at, names_filter=post, incl_bwd=True, fwd_hooks=[(post, push)],
        bwd_hooks=[(post, lambda gradient, hook: heard.append(gradient.clone()))],
    )  # fmt: skip
    assert (pushed - plain).abs().max() > 0
    assert cache[post][..., 3].min() >= 5
    pushed.square().sum().backward()
    assert torch.equal(cache[f"{post}_grad"], heard[0])
    assert heard[0].abs().max() > 0
    with seeing.hooks([(post, push)]):
        again, _ = alone(seeing, at)
    assert torch.equal(again, pushed)


@pytest.mark.parametrize("use_past_kv_cache", [True, False])
@pytest.mark.parametrize("place", PLACES)
def test_a_generation_keeps_what_the_prompt_gave(
    seeing: Any, place: str, use_past_kv_cache: bool
) -> None:
    at = PLACES[place]
    post = f"{at}.hook_sae_acts_post"
    seeing.add_sae(sae_at(seeing, at))
    _, want = seeing.run_with_cache(GIVEN.tokens, post, **GIVEN.media)
    _, cache = seeing.generate(
        GIVEN.tokens, 3, return_cache=True, names_filter=post, stop_at_eos=False, verbose=False,
        use_past_kv_cache=use_past_kv_cache, **GIVEN.media,
    )  # fmt: skip
    assert list(cache) == [post]
    assert torch.equal(cache[post], want[post])


def test_where_it_is_not_reached_its_names_are_refused(seeing: Any) -> None:
    at = PLACES["audio"]
    with pytest.raises(HookNotApplicableError, match="no SAE is attached at"):
        alone(seeing, at, names_filter=f"{at}.hook_sae_acts_post")
    seeing.add_sae(sae_at(seeing, at))
    features, _ = alone(seeing, PLACES["vision"])
    assert torch.isfinite(features).all()
    for options in (
        {"names_filter": f"{at}.hook_sae_acts_post"},
        {"fwd_hooks": [(f"{at}.hook_sae_acts_post", lambda value, hook: None)]},
    ):
        with pytest.raises(HookNeverFiredError, match="hook_sae_acts_post"):
            alone(seeing, PLACES["vision"], **options)
