"""Names of the model and of SAEs chosen together: what a run does not compute is skipped.

A glob or callable is refused only where nothing at all that it chooses is computed; a name always.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from bezel.errors import HookNeverFiredError
from support import fixtures, saes
from support.hook_functions import nothing
from support.saes import D

TOKENS = fixtures.tokens(9)
AT = "blocks.4.hook_resid_post"
POST = f"{AT}.hook_sae_acts_post"


@pytest.fixture
def bridge(bridge: Any) -> Any:
    """With one SAE at the end of block 4."""
    bridge.add_sae(saes.random_sae("jumprelu", D, AT))
    return bridge


def later(shared: Any, first: int) -> tuple[torch.Tensor, dict[str, Any]]:
    """What a run from block `first` on takes."""
    with_all = shared.run_with_cache(TOKENS)[1]
    arguments = {"start_at_layer": first, "tokens": TOKENS, "start_state": with_all}
    return with_all[f"blocks.{first}.hook_resid_pre"], arguments


# Filters that choose values of the model and of the SAE.
MIXED: dict[str, Any] = {
    "none": None,
    "star": "*",
    "glob": "blocks.*resid_post*",
    "regex": re.compile(r"blocks\..*resid_post.*"),
    "callable": lambda name: "resid_post" in name,
    "several": ["hook_embed", "blocks.*resid_post*"],
}


def fitting(form: str) -> Any:
    """Without the embedding, which a run that starts later does not compute."""
    return ["blocks.*resid_post*"] if form == "several" else MIXED[form]


@pytest.mark.parametrize("form", MIXED)
def test_what_is_chosen_with_the_model_is_skipped_where_the_run_ends_before_the_sae(
    bridge: Any, form: str
) -> None:
    stream, cache = bridge.run_with_cache(TOKENS, MIXED[form], stop_at_layer=2)
    names = [name for name in bridge.run_with_cache(TOKENS, MIXED[form])[1] if "sae" not in name]
    bridge.reset_saes()
    want_stream, want = bridge.run_with_cache(TOKENS, MIXED[form], stop_at_layer=2)
    assert torch.equal(stream, want_stream)
    assert list(cache) == list(want)
    assert set(cache) < set(names)
    for name in cache:
        assert torch.equal(cache[name], want[name])


@pytest.mark.parametrize("form", MIXED)
def test_what_is_chosen_with_the_model_is_skipped_where_the_run_starts_behind_the_sae(
    bridge: Any, form: str
) -> None:
    stream, arguments = later(bridge, 6)
    cache = bridge.run_with_cache(stream, fitting(form), **arguments)[1]
    bridge.reset_saes()
    assert list(cache) == list(bridge.run_with_cache(stream, fitting(form), **arguments)[1])
    assert "blocks.6.hook_resid_post" in cache


@pytest.mark.parametrize("form", MIXED)
def test_what_is_chosen_with_the_model_is_kept_where_the_run_comes_to_the_sae(
    bridge: Any, form: str
) -> None:
    whole = bridge.run_with_cache(TOKENS, MIXED[form])[1]
    stream, arguments = later(bridge, 3)
    runs: list[tuple[Any, Any, dict[str, Any]]] = [
        (TOKENS, MIXED[form], {"stop_at_layer": 5}),
        (stream, fitting(form), arguments),
        (stream, fitting(form), {**arguments, "stop_at_layer": 5}),
    ]
    for input, names, options in runs:
        cache = bridge.run_with_cache(input, names, **options)[1]
        assert {POST, AT} <= set(cache)
        torch.testing.assert_close(cache[POST], whole[POST], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", [form for form in MIXED if form != "none"])
def test_hooks_at_both_fire_where_they_can(bridge: Any, form: str) -> None:
    stream, arguments = later(bridge, 6)
    runs: list[tuple[Any, Any, dict[str, Any], bool]] = [
        (TOKENS, MIXED[form], {}, True),
        (TOKENS, MIXED[form], {"stop_at_layer": 5}, True),
        (TOKENS, MIXED[form], {"stop_at_layer": 2}, False),
        (stream, fitting(form), arguments, False),
    ]
    for input, names, options, comes_to_it in runs:
        for reset_hooks_end in (True, False):
            calls: list[str] = []
            hooks = [(names, lambda value, hook, calls=calls: calls.append(hook.name))]
            bridge.run_with_hooks(input, hooks, reset_hooks_end=reset_hooks_end, **options)
            assert len(calls) == len(set(calls))
            assert (POST in calls) == comes_to_it
            assert any("sae" not in name for name in calls)
            bridge.reset_hooks()


@pytest.mark.parametrize("form", MIXED)
def test_gradients_at_both_are_kept_where_they_can_be(bridge: Any, form: str) -> None:
    stream, cache = bridge.run_with_cache(TOKENS, MIXED[form], stop_at_layer=2, incl_bwd=True)
    stream.sum().backward()
    assert "blocks.0.hook_resid_post_grad" in cache
    assert not any("sae" in name for name in cache)


def test_a_name_of_an_sae_is_strict_among_others(bridge: Any) -> None:
    stream, arguments = later(bridge, 6)
    for names in (POST, ["*", POST], [POST, lambda name: True], ["*.hook_sae_acts_p*", POST]):
        for input, options in ((TOKENS, {"stop_at_layer": 2}), (stream, arguments)):
            for way in (
                lambda n=names, i=input, o=options: bridge.run_with_cache(i, n, **o),
                lambda n=names, i=input, o=options: bridge.run_with_hooks(i, [(n, nothing)], **o),
            ):
                with pytest.raises(HookNeverFiredError, match=r"hook_sae_acts_p.* cannot fire"):
                    way()


def test_each_of_several_globs_must_choose_something_that_the_run_computes(bridge: Any) -> None:
    """As it is for values of the model alone."""
    for names, told in (
        (["hook_embed", "*.hook_sae_acts_post"], POST),
        (["hook_embed", "blocks.4.*"], "blocks.4"),
        (["hook_embed", "blocks.5.*"], "blocks.5"),
    ):
        for way in (
            lambda n=names: bridge.run_with_cache(TOKENS, n, stop_at_layer=2),
            lambda n=names: bridge.run_with_hooks(TOKENS, [(n, nothing)], stop_at_layer=2),
        ):
            with pytest.raises(HookNeverFiredError, match=re.escape(told)):
                way()


ELSEWHERE: dict[str, tuple[Callable[[str], bool], str]] = {
    "behind": (lambda name: name in (POST, "blocks.7.attn.hook_z"), "blocks.7.attn.hook_z"),
    "before": (lambda name: name in (POST, "hook_embed"), "hook_embed"),
}


@pytest.mark.parametrize("others", [[], ["blocks.3.hook_resid_mid"]], ids=["alone", "with others"])
@pytest.mark.parametrize("where", ELSEWHERE)
def test_the_value_of_the_sae_is_enough_where_that_of_the_model_is_not_computed(
    bridge: Any, where: str, others: list[str]
) -> None:
    chosen, of_model = ELSEWHERE[where]
    names = [*others, chosen]
    input: Any = TOKENS
    options: dict[str, Any] = {"stop_at_layer": 5}
    if where == "before":
        input, options = later(bridge, 3)
    assert list(bridge.run_with_cache(input, names, **options)[1]) == [*others, POST]
    calls: list[str] = []
    hooks = [(names, lambda value, hook: calls.append(hook.name))]
    bridge.run_with_hooks(input, hooks, **options)
    assert calls == [*others, POST]
    with pytest.raises(HookNeverFiredError):
        bridge.run_with_cache(input, [*others, of_model], **options)
    nowhere = {"stop_at_layer": 4} if where == "behind" else later(bridge, 5)[1]
    input = TOKENS if where == "behind" else later(bridge, 5)[0]
    for way in (
        lambda: bridge.run_with_cache(input, chosen, **nowhere),
        lambda: bridge.run_with_hooks(input, [(chosen, nothing)], **nowhere),
    ):
        with pytest.raises(HookNeverFiredError):
            way()


@pytest.mark.parametrize("form", MIXED)
def test_a_generation_keeps_what_is_chosen_with_the_model(bridge: Any, form: str) -> None:
    arguments: dict[str, Any] = {"stop_at_eos": False, "verbose": False}
    _, cache = bridge.generate(TOKENS, 2, return_cache=True, names_filter=MIXED[form], **arguments)
    assert {POST, AT} <= set(cache)


@pytest.mark.parametrize("form", [form for form in MIXED if form != "none"])
def test_what_stands_at_both_goes_on_at_the_model_when_the_sae_has_gone(
    bridge: Any, form: str
) -> None:
    calls: list[str] = []
    bridge.add_hook(MIXED[form], lambda value, hook: calls.append(hook.name))
    bridge(TOKENS)
    assert POST in calls
    bridge.reset_saes()
    for way in (
        lambda: bridge(TOKENS),
        lambda: bridge(TOKENS, stop_at_layer=2),
        lambda: bridge.generate(TOKENS, 2, verbose=False),
    ):
        calls.clear()
        way()
        assert "blocks.0.hook_resid_post" in calls
        assert POST not in calls
