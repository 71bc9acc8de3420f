"""An SAE spliced into a run is a part of the model: seen, edited and differentiated by name."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from bezel import loading
from bezel.errors import (
    ArgumentError,
    HookNeverFiredError,
    HookNotApplicableError,
    HookResultError,
    UnknownHookError,
)
from support import fixtures, saes
from support.saes import AT, POST, D

TOKENS = fixtures.tokens(9)


def add_to(feature: int, much: float) -> Any:
    def hook(features: torch.Tensor, hook: Any) -> None:
        features[..., feature] += much

    return hook


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (POST, [POST]),
        ([AT, POST], [AT, POST]),
        ("*.hook_sae_acts_p*", [f"{AT}.hook_sae_acts_pre", POST]),
        (lambda name: name.startswith(POST) or name == AT, [AT, POST]),
    ],
)
def test_names_of_values_inside_are_chosen_like_others(
    bridge: Any, sae: Any, names: Any, found: list[str]
) -> None:
    _, cache = bridge.run_with_cache_with_saes(TOKENS, names, saes=sae)
    assert list(cache) == found
    with bridge.saes(sae):
        assert list(bridge.run_with_cache(TOKENS, names)[1]) == found
        calls: list[str] = []
        bridge.run_with_hooks(TOKENS, [(names, lambda x, hook: calls.append(hook.name))])
        assert sorted(calls) == sorted(found)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        (f"{AT}.hook_sae_act_post", UnknownHookError, "hook_sae_acts_post"),
        (f"{AT}.hook_sae_error", HookNotApplicableError, "use_error_term=True"),
        ("blocks.1.hook_resid_post.hook_sae_acts_post", HookNotApplicableError, AT),
        ("*.hook_sae_features", UnknownHookError, "matches no"),
        ("blocks.2.hook_residpost", UnknownHookError, AT),
    ],
)
def test_names_that_no_sae_has_are_refused(
    bridge: Any, sae: Any, name: str, kind: type[Exception], words: str
) -> None:
    ways = [
        lambda: bridge.run_with_cache_with_saes(TOKENS, name, saes=sae),
        lambda: bridge.run_with_hooks_with_saes(TOKENS, saes=sae, fwd_hooks=[(name, print)]),
        lambda: bridge.run_with_hooks_with_saes(TOKENS, saes=sae, bwd_hooks=[(name, print)]),
    ]
    for way in ways:
        with pytest.raises(kind, match=words.replace("*", ".")):
            way()
        assert not bridge.acts_to_saes


def test_an_sae_that_does_not_fit_is_refused_before_the_run(bridge: Any, sae: Any) -> None:
    cases: list[tuple[str, type[Exception], str]] = [
        ("blocks.2.attn.hook_z", ArgumentError, "d_in=48.*4, 8"),
        ("hook_tokens", ArgumentError, "integers"),
        ("blocks.*.hook_resid_post", ArgumentError, "one place"),
        ("blocks.2.hook_nothing", UnknownHookError, "nearest"),
        ("blocks.6.attn.hook_k", HookNotApplicableError, "keys"),
    ]
    for name, kind, words in cases:
        with pytest.raises(kind, match=words):
            bridge.add_sae(sae.at(name))
    elsewhere = saes.random_sae("standard", D, AT).to("meta")
    with pytest.raises(ArgumentError, match="the SAE is on meta and the model on cpu"):
        bridge.add_sae(elsewhere)
    with pytest.raises(ArgumentError, match="two of the SAEs"):
        bridge.run_with_saes(TOKENS, saes=[sae, sae])
    with pytest.raises(ArgumentError, match="an SAE is wanted; got a str"):
        bridge.run_with_saes(TOKENS, saes=[AT])
    assert not bridge.acts_to_saes


def test_a_run_that_ends_before_its_sae_is_refused_and_others_go_without(
    bridge: Any, sae: Any
) -> None:
    with pytest.raises(HookNeverFiredError):
        bridge.run_with_saes(TOKENS, saes=sae, stop_at_layer=2)
    with bridge.saes(sae):
        short = bridge(TOKENS, stop_at_layer=2)
        with pytest.raises(HookNeverFiredError):
            bridge.run_with_cache(TOKENS, POST, stop_at_layer=2)
        with pytest.raises(HookNeverFiredError):
            bridge.run_with_hooks(TOKENS, [(POST, lambda f, hook: None)], stop_at_layer=2)
    assert torch.equal(short, bridge(TOKENS, stop_at_layer=2))


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (torch.ones(2), "[2]"),
        (3, "int"),
        (torch.ones(2, 9, 99, device="meta"), "on meta"),
    ],
)
def test_a_result_that_cannot_stand_in_is_refused(
    bridge: Any, sae: Any, result: Any, words: str
) -> None:
    with pytest.raises(HookResultError) as caught:
        bridge.run_with_hooks_with_saes(
            TOKENS, saes=sae, fwd_hooks=[(POST, lambda f, hook: result)]
        )
    assert POST in str(caught.value)
    assert words in str(caught.value)
    assert "[2, 9, 99]" in str(caught.value)


# --- what a cache is asked for -------------------------------------------------------------------


def test_features_are_cut_cast_and_freed_of_the_batch_like_other_values(
    bridge: Any, sae: Any
) -> None:
    one = TOKENS[:1]
    whole = bridge.run_with_cache_with_saes(one, [AT, POST], saes=sae)[1]
    _, cut = bridge.run_with_cache_with_saes(
        one, [AT, POST], saes=sae, pos_slice=(2, 5), dtype=torch.float64, remove_batch_dim=True
    )
    for name in (AT, POST):
        assert cut[name].dtype == torch.float64
        assert torch.equal(cut[name], whole[name][0, 2:5].double())
    _, plain = bridge.run_with_cache_with_saes(one, POST, saes=sae, return_cache_object=False)
    assert type(plain) is dict
    assert list(plain) == [POST]


def test_features_are_kept_on_the_device_asked_for(
    bridge: Any, sae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No second device is needed to see it: this one has no memory."""
    monkeypatch.setattr(loading, "find_device", torch.device)
    _, cache = bridge.run_with_cache_with_saes(TOKENS, POST, saes=sae, device="meta")
    assert cache[POST].device.type == "meta"
    assert cache[POST].shape == (2, 9, 99)


# --- who is attached, and for how long -----------------------------------------------------------


def test_saes_leave_what_they_found(bridge: Any, sae: Any) -> None:
    plain, other = bridge(TOKENS), saes.random_sae("standard", D, AT)
    bridge.add_sae(sae)
    alone = bridge(TOKENS)
    with bridge.saes(other):
        assert bridge.acts_to_saes == {AT: other}
        with bridge.saes([sae.at("blocks.3.hook_resid_post")]):
            assert list(bridge.acts_to_saes) == [AT, "blocks.3.hook_resid_post"]
    assert bridge.acts_to_saes == {AT: sae}
    bridge.reset_hooks(including_permanent=True)
    assert torch.equal(bridge(TOKENS), alone)
    assert not torch.equal(alone, plain)
    with pytest.raises(ArgumentError, match="no SAE is attached at"):
        bridge.reset_saes("blocks.3.hook_resid_post")
    bridge.reset_saes([])
    assert bridge.acts_to_saes == {AT: sae}
    bridge.reset_saes(AT)
    assert not bridge.acts_to_saes
    assert torch.equal(bridge(TOKENS), plain)


def test_reset_saes_reaches_into_the_open_with_blocks(bridge: Any, sae: Any) -> None:
    other = sae.at("blocks.3.hook_resid_post")
    plain = bridge(TOKENS)
    with bridge.saes(other), bridge.saes(sae):
        bridge.reset_saes(AT)
        assert list(bridge.acts_to_saes) == ["blocks.3.hook_resid_post"]
        bridge.reset_saes()
        assert torch.equal(bridge(TOKENS), plain)
    assert not bridge.acts_to_saes


def test_an_sae_that_another_replaces_is_let_go(bridge: Any, sae: Any) -> None:
    first = saes.random_sae("standard", D, AT)
    held = weakref.ref(first)
    bridge.add_sae(first)
    bridge.add_sae(sae)
    del first
    gc.collect()
    assert held() is None
    bridge.reset_saes()


def test_a_glob_that_names_one_value_is_a_place(bridge: Any, sae: Any) -> None:
    with bridge.saes(sae.at("blocks.2.hook_resid_po*")):
        assert list(bridge.acts_to_saes) == [AT]
        _, cache = bridge.run_with_cache(TOKENS, POST)
    x = bridge.run_with_cache(TOKENS, AT)[1][AT]
    torch.testing.assert_close(cache[POST], sae.encode(x))


def test_saes_that_are_to_stay_stay_unless_the_run_fails(bridge: Any, sae: Any) -> None:
    def fail(features: torch.Tensor, hook: Any) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        bridge.run_with_hooks_with_saes(
            TOKENS, saes=sae, reset_saes_end=False, fwd_hooks=[(POST, fail)]
        )
    assert not bridge.acts_to_saes
    logits = bridge.run_with_saes(TOKENS, saes=sae, reset_saes_end=False)
    assert torch.equal(bridge(TOKENS), logits)
    bridge.reset_saes()
    assert not bridge.acts_to_saes


def test_a_run_inside_a_hook_has_its_own_values(bridge: Any, sae: Any) -> None:
    def rerun(features: torch.Tensor, hook: Any) -> None:
        bridge.run_with_cache(TOKENS[:, :4], POST)

    _, cache = bridge.run_with_cache_with_saes(TOKENS, POST, saes=sae, fwd_hooks=[(POST, rerun)])
    assert cache[POST].shape == (2, 9, 99)


def test_hooks_in_a_with_reach_the_values_inside(bridge: Any, sae: Any) -> None:
    with bridge.saes(sae, use_error_term=True):
        plain = bridge(TOKENS)
        with bridge.hooks([(POST, add_to(4, 2.0))]):
            steered = bridge(TOKENS)
        assert torch.equal(bridge(TOKENS), plain)
    want = bridge.run_with_hooks(TOKENS, [(AT, lambda x, hook: x + 2 * sae.W_dec[4])])
    torch.testing.assert_close(steered, want, rtol=1e-4, atol=1e-5)
