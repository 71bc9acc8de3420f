"""Hooks that stand on a Bridge: at which values, in which order, and how they are removed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from bezel.errors import (
    ArgumentError,
    HookNotApplicableError,
    HookResultError,
    UnknownHookError,
)
from support import fixtures
from support.hook_functions import doubled, nothing, says

TOKENS = fixtures.tokens(9)
Z = "blocks.3.attn.hook_z"


# --- registering ---------------------------------------------------------------------------------


def test_a_standing_hook_edits_every_kind_of_run(bridge: Any) -> None:
    want = bridge.run_with_hooks(TOKENS, [(Z, doubled)])
    bridge.add_hook(Z, doubled)
    for _ in range(2):
        assert torch.equal(bridge(TOKENS), want)
    assert torch.equal(bridge.run_with_cache(TOKENS, "hook_embed")[0], want)
    assert torch.equal(bridge.run_with_hooks(TOKENS, [(Z, nothing)]), want)
    bridge.reset_hooks()
    assert not torch.equal(bridge(TOKENS), want)


SELECTORS = {
    "name": (Z, 1),
    "glob": ("blocks.*.attn.hook_z", 8),
    "regex": (re.compile(r"blocks\.[0-2]\.attn\.hook_z"), 3),
    "callable": (lambda name: name.endswith("hook_z"), 8),
    "several": ([Z, "blocks.*.hook_resid_mid"], 9),
    "several that meet": (["blocks.*.attn.hook_z", Z, lambda name: name == Z], 8),
    "an iterator": (iter([Z, "blocks.0.attn.hook_z"]), 2),
    "on demand": ("blocks.*.attn.hook_result", 8),
}


@pytest.mark.parametrize("kind", SELECTORS)
def test_every_form_of_a_name_is_called_once_at_each_value(bridge: Any, kind: str) -> None:
    selector, n_names = SELECTORS[kind]
    names: list[str] = []
    bridge.add_hook(selector, lambda value, hook: names.append(hook.name))
    bridge(TOKENS)
    assert len(names) == len(set(names)) == n_names
    assert sorted(bridge.list_hooks()) == sorted(names)


@pytest.mark.parametrize("way", ["run_with_hooks", "hooks"])
def test_several_names_serve_a_pair_too(bridge: Any, way: str) -> None:
    names: list[str] = []
    pairs = [(["blocks.*.attn.hook_z", Z], lambda value, hook: names.append(hook.name))]
    if way == "run_with_hooks":
        bridge.run_with_hooks(TOKENS, pairs)
    else:
        with bridge.hooks(pairs):
            bridge(TOKENS)
    assert names == [f"blocks.{i}.attn.hook_z" for i in range(8)]


def test_a_callable_name_is_asked_when_it_is_registered_and_never_again(bridge: Any) -> None:
    asked: list[str] = []

    def chooses(name: str) -> bool:
        asked.append(name)
        return name == Z

    calls: list[str] = []
    bridge.add_hook(chooses, says("called", calls))
    n_asked = len(asked)
    assert n_asked > 0
    bridge(TOKENS)
    assert (len(asked), calls) == (n_asked, ["called"])


REFUSED = {
    "unknown": ("blocks.3.attn.hook_zz", UnknownHookError, r"hook_zz.*attn\.hook_z"),
    "a glob of nothing": ("blocks.*.hook_zz", UnknownHookError, "matches no hook point"),
    "a callable that wants nothing": (lambda name: False, UnknownHookError, "chose none"),
    "one of several": ([Z, "blocks.3.attn.hook_zz"], UnknownHookError, "hook_zz"),
    "absent here": ("blocks.5.attn.hook_k", HookNotApplicableError, r"block 2.*hook_shared_k"),
    "no name": (None, ArgumentError, "named by NoneType"),
    "a number": (3, ArgumentError, "named by int"),
    "an empty list": ([], ArgumentError, "no name"),
}
REGISTERING = {
    "add_hook": lambda bridge, name: bridge.add_hook(name, nothing),
    "add_hook of gradients": lambda bridge, name: bridge.add_hook(name, nothing, dir="bwd"),
    "add_perma_hook": lambda bridge, name: bridge.add_perma_hook(name, nothing),
    "hooks": lambda bridge, name: bridge.hooks([(Z, nothing), (name, nothing)]),
    "hooks of gradients": lambda bridge, name: bridge.hooks(bwd_hooks=[(name, nothing)]),
    "kept": lambda bridge, name: bridge.run_with_hooks(
        TOKENS, [(Z, nothing), (name, nothing)], reset_hooks_end=False
    ),
}


@pytest.mark.parametrize("way", REGISTERING)
@pytest.mark.parametrize("kind", REFUSED)
def test_a_wrong_name_is_refused_when_it_is_registered(bridge: Any, way: str, kind: str) -> None:
    name, error, message = REFUSED[kind]
    with pytest.raises(error, match=message):
        REGISTERING[way](bridge, name)
    assert bridge.list_hooks() == {}


def test_a_gradient_of_integers_is_refused_when_it_is_registered(bridge: Any) -> None:
    with pytest.raises(HookNotApplicableError, match="hook_tokens.*integers"):
        bridge.add_hook("hook_tokens", nothing, dir="bwd")
    bridge.add_hook("hook_*", nothing, dir="bwd")
    assert "hook_tokens" not in bridge.list_hooks()
    assert "hook_embed" in bridge.list_hooks()


WRONG = {
    "a direction": (lambda b: b.add_hook(Z, nothing, dir="both"), 'dir is .both.; wanted "fwd"'),
    "no function": (lambda b: b.add_hook(Z, "zero"), "zero.*wanted a function"),
    "a direction to reset": (lambda b: b.reset_hooks("forward"), "forward.*both"),
    "a direction to list": (lambda b: b.list_hooks(dir="forward"), "forward.*both"),
    "pairs that are none": (lambda b: b.hooks([Z]), r"fwd_hooks.*\(name, function\)"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_argument_is_refused(bridge: Any, kind: str) -> None:
    call, message = WRONG[kind]
    with pytest.raises(ArgumentError, match=message):
        call(bridge)
    assert bridge.list_hooks() == {}


# --- order ---------------------------------------------------------------------------------------


def test_hooks_are_called_standing_first_then_contexts_then_the_calls_own(bridge: Any) -> None:
    calls: list[str] = []
    bridge.add_hook(Z, says("standing 1", calls))
    with bridge.hooks([(Z, says("outer", calls))]):
        bridge.add_hook("blocks.*.hook_z", says("standing 2", calls))
        with bridge.hooks([(Z, says("inner 1", calls)), (Z, says("inner 2", calls))]):
            bridge.add_perma_hook(Z, says("standing 3", calls))
            bridge.add_hook(Z, says("before", calls), prepend=True)
            bridge.run_with_hooks(TOKENS, [(Z, says("own 1", calls)), (Z, says("own 2", calls))])
    at_z = [call for call in calls if call != "standing 2"]
    assert calls.count("standing 2") == 8
    assert at_z == [
        *("before", "standing 1", "standing 3"),
        *("outer", "inner 1", "inner 2", "own 1", "own 2"),
    ]
    at = calls.index("standing 1")
    assert calls[at + 1] == "standing 2"


def test_each_hook_sees_the_result_of_the_one_before(bridge: Any) -> None:
    plain = bridge.run_with_cache(TOKENS, Z)[1][Z]
    bridge.add_hook(Z, doubled)
    bridge.add_hook(Z, lambda z, hook: z + 3, prepend=True)
    with bridge.hooks([(Z, lambda z, hook: z - 1)]):
        _, cache = bridge.run_with_cache(TOKENS, Z, fwd_hooks=[(Z, lambda z, hook: z * 5)])
    assert torch.equal(cache[Z], (2 * (plain + 3) - 1) * 5)


def test_backward_hooks_keep_the_same_order(bridge: Any) -> None:
    calls: list[str] = []
    bridge.add_hook(Z, says("standing", calls), dir="bwd")
    bridge.add_hook(Z, says("before", calls), dir="bwd", prepend=True)
    with bridge.hooks(bwd_hooks=[(Z, says("context", calls))]):
        loss = bridge.run_with_hooks(
            TOKENS, bwd_hooks=[(Z, says("own", calls))], return_type="loss"
        )
    bridge.reset_hooks()
    assert calls == []
    loss.backward()  # the graph keeps the hooks that the run took
    assert calls == ["before", "standing", "context", "own"]


# --- removing ------------------------------------------------------------------------------------


def test_reset_hooks_removes_every_hook_but_the_permanent_ones(bridge: Any) -> None:
    calls: list[str] = []
    for dir in ("fwd", "bwd"):
        bridge.add_hook(Z, says("plain", calls), dir=dir)
        bridge.add_hook("*", says("glob", calls), dir=dir, level=2)
        bridge.add_hook([Z, "hook_embed"], says("several", calls), dir=dir, prepend=True)
        bridge.add_perma_hook(Z, says(f"permanent {dir}", calls), dir=dir)
    bridge.run_with_hooks(TOKENS, [(Z, says("kept", calls))], reset_hooks_end=False)
    with bridge.hooks([(Z, says("context", calls))], reset_hooks_end=False):
        pass
    calls.clear()
    bridge.reset_hooks()
    bridge(TOKENS, return_type="loss").backward()
    assert calls == ["permanent fwd", "permanent bwd"]
    bridge.reset_hooks(including_permanent=True)
    assert bridge.list_hooks() == {}
    assert not bridge(TOKENS).requires_grad


def test_reset_hooks_inside_a_with_removes_its_hooks_for_good(bridge: Any) -> None:
    calls: list[str] = []
    with bridge.hooks([(Z, says("outer", calls))]), bridge.hooks([(Z, says("inner", calls))]):
        bridge.reset_hooks(level=2)
        bridge(TOKENS)
        assert calls == ["outer"]
        bridge.reset_hooks()
        bridge(TOKENS)
    bridge(TOKENS)
    assert calls == ["outer"]


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ({}, ["fwd permanent", "bwd permanent"]),
        ({"including_permanent": True}, []),
        ({"direction": "fwd"}, ["fwd permanent", "bwd", "bwd 1", "bwd permanent"]),
        ({"direction": "bwd", "including_permanent": True}, ["fwd", "fwd 1", "fwd permanent"]),
        ({"level": 1}, ["fwd", "fwd permanent", "bwd", "bwd permanent"]),
        (
            {"level": 1, "direction": "fwd"},
            ["fwd", "fwd permanent", "bwd", "bwd 1", "bwd permanent"],
        ),
    ],
)
def test_reset_hooks_chooses(bridge: Any, arguments: dict[str, Any], left: list[str]) -> None:
    calls: list[str] = []
    for dir in ("fwd", "bwd"):
        bridge.add_hook(Z, says(dir, calls), dir=dir)
        bridge.add_hook(Z, says(f"{dir} 1", calls), dir=dir, level=1)
        bridge.add_perma_hook(Z, says(f"{dir} permanent", calls), dir=dir)
    bridge.reset_hooks(**arguments)
    loss = bridge(TOKENS, return_type="loss")
    if loss.requires_grad:
        loss.backward()
    assert calls == left


def test_list_hooks_shows_what_the_next_run_applies(bridge: Any) -> None:
    bridge.add_hook(["blocks.*.attn.hook_z", "hook_embed"], doubled, level=4)
    bridge.add_perma_hook(Z, nothing, dir="bwd")
    assert list(bridge.list_hooks()) == [
        "hook_embed",
        *(f"blocks.{i}.attn.hook_z" for i in range(8)),
    ]
    assert list(bridge.list_hooks("blocks.[23].attn.hook_z")) == ["blocks.2.attn.hook_z", Z]
    assert list(bridge.list_hooks(dir="bwd")) == [Z]
    assert bridge.list_hooks(dir="bwd", including_permanent=False) == {}
    first, second = bridge.list_hooks(Z)[Z]
    assert (first.function, first.dir, first.level, first.is_permanent) == (
        doubled,
        "fwd",
        4,
        False,
    )
    assert (second.function, second.dir, second.level, second.is_permanent) == (
        *(nothing, "bwd", None),
        True,
    )
    assert "doubled" in repr(first)
    assert "permanent" in repr(second)
    with bridge.hooks([(Z, doubled)]), bridge.hooks([(Z, nothing)]):
        assert [hook.level for hook in bridge.list_hooks(Z)[Z]] == [4, None, 1, 2]
    with pytest.raises(UnknownHookError, match="hook_zz"):
        bridge.list_hooks("hook_zz")


def test_cleanup_never_removes_other_hooks(bridge: Any) -> None:
    """Not that of a run, of a run that fails, or of a context."""
    calls: list[str] = []
    bridge.add_hook(Z, says("standing", calls))
    bridge.run_with_hooks(TOKENS, [(Z, nothing)], clear_contexts=True)
    bridge.run_with_cache(TOKENS, Z, fwd_hooks=[(Z, nothing)])
    with pytest.raises(HookResultError):
        bridge.run_with_hooks(TOKENS, [(Z, lambda z, hook: z[:1])])
    with bridge.hooks([(Z, nothing)], clear_contexts=True):
        pass
    calls.clear()
    bridge(TOKENS)
    assert calls == ["standing"]
