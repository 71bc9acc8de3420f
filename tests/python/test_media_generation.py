"""Text that goes on behind images, videos and sounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bezel.errors import ArgumentError
from support import fixtures, media
from support.compare import logits_gate, relative_rms
from support.lab import Lab
from support.media_fixtures import MEDIA_RECIPES
from support.recipe import FIRST_SPECIAL_ID, MEDIA_IDS

NAMES = tuple(MEDIA_RECIPES)
N_NEW = 4


def only_text(value: torch.Tensor, hook: Any) -> None:
    value[..., FIRST_SPECIAL_ID:] = -torch.inf


def only_images(value: torch.Tensor, hook: Any) -> torch.Tensor:
    """The likeliest token is that of images."""
    value = torch.zeros_like(value)
    value[..., MEDIA_IDS["image_token_id"]] = 1.0
    return value


def go_on(bridge: Any, given: media.MediaCase, hook: Any = only_text, **arguments: Any) -> Any:
    with bridge.hooks([("hook_logits", hook)]):
        return bridge.generate(
            given.tokens, N_NEW, stop_at_eos=False, verbose=False, **given.media, **arguments
        )


@pytest.mark.parametrize("use_past_kv_cache", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_the_cache_holds_the_towers_of_the_prompt_and_the_text_of_all_steps(
    lab: Lab, name: str, use_past_kv_cache: bool
) -> None:
    given, bridge = media.widest_case(name), lab.bridge(name, path="open")
    tokens, cache = go_on(
        bridge, given, return_cache=True, use_past_kv_cache=use_past_kv_cache
    )  # fmt: skip
    with bridge.hooks([("hook_logits", only_text)]):
        _, of_prompt = bridge.run_with_cache(given.tokens, **given.media)
    assert set(cache) == set(of_prompt)
    for key, value in of_prompt.items():
        if key.startswith(("vision_", "audio_")):
            assert torch.equal(cache[key], value), key
    assert cache["hook_full_embed"].shape[1] == tokens.shape[1] - 1
    assert torch.equal(cache["hook_tokens"], tokens[:, :-1])


@pytest.mark.parametrize("name", NAMES)
def test_a_tower_name_is_recorded_alone(lab: Lab, name: str) -> None:
    given, bridge = media.widest_case(name), lab.bridge(name, path="open")
    _, cache = go_on(bridge, given, return_cache=True, names_filter="vision_projector.hook_out")
    _, want = bridge.run_with_cache(given.tokens, "vision_projector.hook_out", **given.media)
    assert list(cache) == ["vision_projector.hook_out"]
    assert torch.equal(cache["vision_projector.hook_out"], want["vision_projector.hook_out"])


@pytest.mark.parametrize("name", NAMES)
def test_a_hook_in_a_tower_fires_in_the_first_step_and_is_felt_in_all(lab: Lab, name: str) -> None:
    given, bridge, steps = media.widest_case(name), lab.bridge(name, path="open"), []

    def other(value: torch.Tensor, hook: Any) -> torch.Tensor:
        steps.append(hook.step)
        return value.flip(-1)

    _, plain = go_on(bridge, given, output_logits=True)
    with bridge.hooks([("vision_projector.hook_out", other)]):
        _, edited = go_on(bridge, given, output_logits=True)
    assert steps == [0]
    seen = torch.isfinite(plain)
    assert all((plain - edited)[:, step][seen[:, step]].abs().max() > 0 for step in range(N_NEW))


@pytest.mark.parametrize("name", NAMES)
def test_the_stream_gives_the_tokens_of_generate(lab: Lab, name: str) -> None:
    given, bridge = media.widest_case(name), lab.bridge(name)
    want = go_on(bridge, given)
    with bridge.hooks([("hook_logits", only_text)]):
        got = list(bridge.generate_stream(given.tokens, N_NEW, stop_at_eos=False, **given.media))
    assert torch.equal(torch.stack(got, 1), want[:, -N_NEW:])


@pytest.mark.parametrize("use_past_kv_cache", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_media_id_that_is_generated_stands_for_no_media(
    lab: Lab, name: str, use_past_kv_cache: bool
) -> None:
    given, bridge = media.widest_case(name), lab.bridge(name, path="open")
    tokens, cache = go_on(
        bridge, given, only_images, return_cache=True, names_filter="hook_full_embed",
        use_past_kv_cache=use_past_kv_cache,
    )  # fmt: skip
    assert (tokens[:, -N_NEW:] == MEDIA_IDS["image_token_id"]).all()
    _, of_padding = bridge.run_with_cache(
        torch.zeros(1, 1, dtype=torch.int64), "hook_embed", attention_mask=torch.ones(1, 1)
    )
    new = cache["hook_full_embed"][:, given.tokens.shape[1] :]
    assert torch.equal(new, of_padding["hook_embed"].expand_as(new))


@pytest.mark.parametrize("with_types", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_text_with_generated_media_ids_is_run_again_with_its_types(
    lab: Lab, name: str, with_types: bool
) -> None:
    """Type 0 says that no medium stands behind an id; what a cache computed is that run's."""
    given, bridge = media.widest_case(name), lab.bridge(name, path="open")
    types = given.media["mm_token_type_ids"]
    arguments = {key: v for key, v in given.media.items() if key != "mm_token_type_ids"}
    with bridge.hooks([("hook_logits", only_images)]):
        tokens, cache = bridge.generate(
            given.tokens, N_NEW, stop_at_eos=False, verbose=False, return_cache=True,
            names_filter="hook_unembed", **(given.media if with_types else arguments),
        )  # fmt: skip
    whole, n_more = tokens[:, :-1], N_NEW - 1
    if "attention_mask" in arguments:
        mask = arguments["attention_mask"]
        arguments["attention_mask"] = torch.nn.functional.pad(mask, (0, n_more), value=1)
    with pytest.raises(ArgumentError, match="image tokens; pixel_values makes"):
        bridge(whole, **arguments)
    arguments["mm_token_type_ids"] = torch.nn.functional.pad(types, (0, n_more))
    _, again = bridge.run_with_cache(whole, "hook_unembed", **arguments)
    want, valid = (
        cache["hook_unembed"],
        torch.nn.functional.pad(given.valid, (0, n_more), value=True),
    )
    assert relative_rms(again["hook_unembed"][valid], want[valid]) <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_generated_media_ids_are_to_transformers_what_they_are_here(lab: Lab, name: str) -> None:
    """Without features it looks them up as padding; types of 0 keep them out of its blocks."""
    model, bridge = lab.reference(name), lab.bridge(name)
    tokens = fixtures.tokens(12)
    for column, kind in ((5, "image"), (6, "image"), (7, "video"), (9, "audio")):
        tokens[:, column] = MEDIA_IDS[f"{kind}_token_id"]
    types = torch.zeros_like(tokens)
    with torch.no_grad():
        want = model(input_ids=tokens, mm_token_type_ids=types).logits
    got = bridge(tokens, mm_token_type_ids=types)
    assert (got - want).abs().max() <= logits_gate(want)
    with pytest.raises(ArgumentError, match="tokens hold 4 image tokens, and pixel_values is miss"):
        bridge(tokens)


def test_media_that_do_not_fit_the_prompt_are_refused(lab: Lab) -> None:
    given, bridge = media.widest_case("sight_e2b"), lab.bridge("sight_e2b")
    with pytest.raises(ArgumentError, match="pixel_values is missing"):
        bridge.generate(given.tokens, 1, verbose=False)
    with pytest.raises(ArgumentError, match="pixel_values_videos is a list"):
        bridge.generate(given.tokens, 1, verbose=False, pixel_values_videos=[1])
