"""Text goes on with SAEs in the model: features are steered in every step, and recorded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bezel.errors import ArgumentError, UnknownHookError
from support import fixtures, saes
from support.compare import relative_rms
from support.saes import AT, POST, D

PROMPT = fixtures.tokens(7)
N_NEW = 4
GREEDY: dict[str, Any] = {"max_new_tokens": N_NEW, "stop_at_eos": False, "verbose": False}


def pushed(features: torch.Tensor, hook: Any) -> None:
    features[..., 5] += 30


def test_a_standing_hook_at_a_feature_steers_every_step(bridge: Any, sae: Any) -> None:
    seen: list[Any] = []

    def push(features: torch.Tensor, hook: Any) -> None:
        seen.append((hook.step, hook.positions[0].tolist(), features.shape[1]))
        features[..., 5] += 30

    plain = bridge.generate(PROMPT, **GREEDY)
    bridge.add_sae(sae, use_error_term=True)
    assert torch.equal(bridge.generate(PROMPT, **GREEDY), plain)
    bridge.add_hook(POST, push)
    steered = bridge.generate(PROMPT, **GREEDY)
    assert seen == [(0, list(range(7)), 7), (1, [7], 1), (2, [8], 1), (3, [9], 1)]
    assert not torch.equal(steered, plain)
    streamed = torch.stack(list(bridge.generate_stream(PROMPT, **GREEDY)), 1)
    assert torch.equal(streamed, steered[:, 7:])
    bridge.reset_hooks()
    assert torch.equal(bridge.generate(PROMPT, **GREEDY), plain)
    direction = 30 * sae.W_dec[5]
    bridge.reset_saes()
    with bridge.hooks([(AT, lambda x, hook: x + direction)]):
        assert torch.equal(bridge.generate(PROMPT, **GREEDY), steered)


PLACES = {
    "resid": (AT, D),
    "heads together": ("blocks.1.attn.hook_z", 32),
    "keys that are shared": ("blocks.6.attn.hook_shared_k", None),
    "all layers' inputs": ("ple.hook_inputs", None),
    "logits": ("hook_logits", 160),
}


@pytest.mark.parametrize("cached", [True, False], ids=["kv cache", "whole text"])
def test_what_is_recorded_while_generating_is_what_one_run_of_the_text_computes(
    bridge: Any, *, cached: bool
) -> None:
    shapes = {point.name: point.shape for point in bridge.hook_points()}
    places = [
        saes.random_sae("standard", d_in or shapes[place][-1], place, d_sae=9)
        for place, d_in in PLACES.values()
    ]
    mask = torch.ones_like(PROMPT)
    mask[0, :2] = 0  # padding on the left
    with bridge.saes(places), bridge.hooks([("blocks.1.attn.hook_z.hook_sae_acts_post", pushed)]):
        tokens, cache = bridge.generate(
            PROMPT, return_cache=True, attention_mask=mask, use_past_kv_cache=cached, **GREEDY
        )
        mask = torch.nn.functional.pad(mask, (0, N_NEW - 1), value=1)
        _, whole = bridge.run_with_cache(tokens[:, :-1], attention_mask=mask)
        assert set(cache) == set(whole)
        inside = [name for name in whole if "hook_sae" in name]
        assert len(inside) == 5 * len(places)
        for name in inside:
            assert cache[name].shape == whole[name].shape, name
            got, want = (values[name][mask.bool()] for values in (cache, whole))
            assert relative_rms(got, want) <= 1e-5, name


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (POST, [POST]),
        ("*.hook_sae_acts_p*", [f"{AT}.hook_sae_acts_pre", POST]),
        ([POST, AT], [AT, POST]),
        (AT, [AT]),
        (iter([AT, "hook_embed"]), ["hook_embed", AT]),
    ],
)
def test_a_generation_keeps_what_was_named_and_no_more(
    bridge: Any, sae: Any, names: Any, found: list[str]
) -> None:
    bridge.add_sae(sae)
    bridge.add_hook(POST, pushed)
    tokens, cache = bridge.generate(PROMPT, return_cache=True, names_filter=names, **GREEDY)
    assert list(cache) == found
    whole = bridge.run_with_cache(tokens[:, :-1], found)[1]
    for name in found:
        assert relative_rms(cache[name], whole[name]) <= 1e-5
        assert not cache[name].requires_grad
    assert list(bridge.list_hooks()) == [POST]


def test_what_is_recorded_is_its_own_memory(bridge: Any, sae: Any) -> None:
    """Whatever becomes of the tensor that a hook was given."""
    held: list[torch.Tensor] = []

    def wipe_the_last(features: torch.Tensor, hook: Any) -> None:
        for before in held:
            before.zero_()
        held.append(features)

    arguments = {"return_cache": True, "names_filter": POST, **GREEDY}
    bridge.add_sae(sae, use_error_term=True)
    _, want = bridge.generate(PROMPT, **arguments)
    bridge.add_hook(POST, wipe_the_last)
    _, cache = bridge.generate(PROMPT, **arguments)
    assert len(held) == N_NEW
    assert torch.equal(cache[POST], want[POST])


def test_what_a_generation_cannot_do_at_features_is_refused(bridge: Any, sae: Any) -> None:
    bridge.add_sae(sae)
    steps: list[int] = []
    bridge.add_hook("hook_embed", lambda x, hook: steps.append(hook.step))
    with pytest.raises(UnknownHookError, match="hook_sae_acts_post"):
        bridge.generate(PROMPT, return_cache=True, names_filter=f"{POST}s", **GREEDY)
    with pytest.raises(ArgumentError, match="names_filter is empty"):
        bridge.generate(PROMPT, return_cache=True, names_filter=[], **GREEDY)
    assert not steps
    bridge.add_hook(POST, pushed, dir="bwd")
    with pytest.raises(ArgumentError, match=r"backward hooks out of generate"):
        bridge.generate(PROMPT, **GREEDY)
    bridge.reset_hooks()
    bridge.reset_saes()
    # Its width is the number of keys, and that grows.
    bridge.add_sae(saes.random_sae("standard", 7, "blocks.3.attn.hook_pattern"))
    with pytest.raises(ArgumentError, match="d_in=7"):
        bridge.generate(PROMPT, **GREEDY)


def test_a_step_that_fails_leaves_nothing_behind(bridge: Any, sae: Any) -> None:
    bridge.add_sae(sae)

    def fail(features: torch.Tensor, hook: Any) -> None:
        if hook.step == 2:
            raise KeyError("mine")

    with bridge.hooks([(POST, fail)]), pytest.raises(KeyError, match="mine"):
        bridge.generate(PROMPT, return_cache=True, names_filter=POST, **GREEDY)
    assert bridge.list_hooks() == {}
    again = bridge.generate(PROMPT, return_cache=True, names_filter=POST, **GREEDY)
    assert again[1][POST].shape == (2, 7 + N_NEW - 1, 99)
