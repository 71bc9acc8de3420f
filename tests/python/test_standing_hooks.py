"""Hooks that stand on a Bridge: who is called, in which order, for how long, and what is left."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from bezel.errors import (
    ArgumentError,
    HookNeverFiredError,
    HookNotApplicableError,
    HookResultError,
    UnknownHookError,
)
from support import fixtures
from support.lab import Lab

TOKENS = fixtures.tokens(9)
Z = "blocks.3.attn.hook_z"
LATE = "blocks.7.hook_resid_post"


@pytest.fixture(scope="module")
def shared(lab: Lab) -> Any:
    return lab.bridge("e2b", path="open")  # where more records change no bit


@pytest.fixture
def bridge(shared: Any) -> Iterator[Any]:
    """Nothing stands before a test; what it leaves ends with it."""
    assert shared.list_hooks() == {}
    yield shared
    shared.reset_hooks(including_permanent=True)


def says(word: str, calls: list[str]) -> Callable[..., None]:
    return lambda value, hook: calls.append(word)


def nothing(value: torch.Tensor, hook: Any) -> None:
    return None


def doubled(value: torch.Tensor, hook: Any) -> torch.Tensor:
    return 2 * value


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


# --- runs that keep their hooks ------------------------------------------------------------------


def test_hooks_of_a_run_stand_afterwards_when_asked_to(bridge: Any) -> None:
    plain = bridge(TOKENS)
    edited = bridge.run_with_hooks(TOKENS, [(Z, doubled)], reset_hooks_end=False)
    assert not torch.equal(edited, plain)
    assert torch.equal(bridge(TOKENS), edited)
    assert list(bridge.list_hooks()) == [Z]
    bridge.reset_hooks()
    assert torch.equal(bridge(TOKENS), plain)


def test_hooks_of_a_run_that_raises_never_stand(bridge: Any) -> None:
    def fails(value: torch.Tensor, hook: Any) -> None:
        raise KeyboardInterrupt

    bad = [
        (TOKENS, {"fwd_hooks": [(Z, doubled), (LATE, fails)]}),
        (TOKENS, {"fwd_hooks": [(Z, doubled)], "attention_mask": 3}),
        (TOKENS, {"fwd_hooks": [(Z, doubled), (LATE, doubled)], "stop_at_layer": 4}),
        ("text for a model without a tokenizer", {"fwd_hooks": [(Z, doubled)]}),
        (TOKENS + 1000, {"fwd_hooks": [(Z, doubled)]}),
    ]
    plain = bridge(TOKENS)
    for tokens, arguments in bad:
        with pytest.raises((ArgumentError, KeyboardInterrupt, HookNeverFiredError)):
            bridge.run_with_hooks(tokens, reset_hooks_end=False, **arguments)
        assert bridge.list_hooks() == {}
        assert torch.equal(bridge(TOKENS), plain)


# --- runs that do not compute the value ----------------------------------------------------------


def test_a_run_goes_on_without_standing_hooks_of_values_that_it_does_not_compute(
    bridge: Any,
) -> None:
    """The part of the hooked model that is run is exactly that part."""
    calls: list[str] = []

    def turned(value: torch.Tensor, hook: Any) -> torch.Tensor:
        calls.append(hook.name)
        return value.flip(1)

    bridge.add_hook(["blocks.1.hook_resid_mid", LATE, "hook_logits", "hook_embed"], turned)
    whole, cache = bridge.run_with_cache(TOKENS)
    calls.clear()
    stream = bridge(TOKENS, stop_at_layer=4)
    assert calls == ["hook_embed", "blocks.1.hook_resid_mid"]
    assert torch.equal(stream, cache["blocks.4.hook_resid_pre"])
    calls.clear()
    logits = bridge(stream, start_at_layer=4, tokens=TOKENS, start_state=cache)
    assert calls == [LATE, "hook_logits"]
    assert torch.equal(logits, whole)
    calls.clear()
    bridge(cache["hook_embed"], tokens=TOKENS)
    assert calls == ["hook_embed", "blocks.1.hook_resid_mid", LATE, "hook_logits"]
    with bridge.hooks([(LATE, turned)]):
        assert torch.equal(bridge(TOKENS, stop_at_layer=4), stream)
        assert torch.equal(bridge.run_with_cache(TOKENS, Z, stop_at_layer=4)[1][Z], cache[Z])


def test_a_calls_own_hook_that_cannot_fire_is_refused_as_ever(bridge: Any) -> None:
    bridge.add_hook(LATE, nothing)
    with pytest.raises(HookNeverFiredError, match=r"blocks\.7.*blocks 0 to 3.*stop_at_layer"):
        bridge.run_with_hooks(TOKENS, [(LATE, nothing)], stop_at_layer=4)
    with pytest.raises(HookNeverFiredError):
        bridge.run_with_cache(TOKENS, LATE, stop_at_layer=4)


def test_a_plan_counts_standing_hooks(bridge: Any) -> None:
    """An edit between two names of one value makes them two values."""
    names = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"]
    one = bridge.plan((1, 4), names).cache_bytes
    bridge.add_hook(names[1], doubled)
    assert bridge.plan((1, 4), names).cache_bytes == 2 * one


# --- snapshots, runs within hooks ----------------------------------------------------------------


def test_what_a_hook_registers_or_removes_shows_in_the_next_run(bridge: Any) -> None:
    calls: list[str] = []

    def changes(value: torch.Tensor, hook: Any) -> None:
        calls.append("first")
        bridge.reset_hooks()
        bridge.add_hook(LATE, says("new", calls))

    bridge.add_hook(Z, changes)
    bridge.add_hook(LATE, says("old", calls))
    bridge(TOKENS)
    assert calls == ["first", "old"]
    bridge(TOKENS)
    assert calls == ["first", "old", "new"]


def test_a_standing_hook_does_not_apply_to_runs_within_itself(bridge: Any) -> None:
    other = fixtures.tokens(9, seed=4)
    want = bridge.run_with_cache(other, Z)[1][Z]
    calls: list[str] = []

    def from_another_run(z: torch.Tensor, hook: Any) -> torch.Tensor:
        calls.append("outer")
        return bridge.run_with_cache(other, Z)[1][Z]

    bridge.add_hook(Z, from_another_run)
    assert torch.equal(bridge.run_with_cache(TOKENS, Z)[1][Z], want)
    assert calls == ["outer"]
    bridge.add_hook("hook_embed", says("another", calls))
    calls.clear()
    bridge(TOKENS)
    assert calls == ["another", "outer", "another"]  # every other one does
    calls.clear()
    with bridge.hooks([(Z, from_another_run)]):  # each applies within the other, and not deeper
        bridge(TOKENS)
    assert calls == ["another", *["outer", "another"] * 4]
    calls.clear()
    bridge(TOKENS)  # and what was entered is left
    assert calls == ["another", "outer", "another"]


def test_an_error_in_a_run_within_a_hook_leaves_the_hook_standing(bridge: Any) -> None:
    calls: list[str] = []

    def fails_inside(value: torch.Tensor, hook: Any) -> None:
        calls.append("called")
        bridge.run_with_cache(TOKENS, "hook_embeds")

    bridge.add_hook(Z, fails_inside)
    for _ in range(2):
        with pytest.raises(UnknownHookError, match="hook_embeds"):
            bridge(TOKENS)
    assert calls == ["called", "called"]


def test_an_error_of_a_standing_hook_comes_back_as_it_is(bridge: Any) -> None:
    error = KeyboardInterrupt()

    def fails(value: torch.Tensor, hook: Any) -> None:
        raise error

    bridge.add_hook(Z, fails)
    with pytest.raises(KeyboardInterrupt) as caught:
        bridge(TOKENS)
    assert caught.value is error
    assert list(bridge.list_hooks()) == [Z]
    bridge.reset_hooks()
    bridge(TOKENS)


# --- hook.ctx ------------------------------------------------------------------------------------


def count(value: torch.Tensor, hook: Any) -> None:
    hook.ctx["calls"] = hook.ctx.get("calls", 0) + 1


def test_the_context_of_standing_hooks_lives_across_calls_until_it_is_cleared(bridge: Any) -> None:
    seen = []
    bridge.add_hook("blocks.[01].hook_resid_mid", count)
    bridge.add_hook("blocks.0.hook_resid_mid", lambda x, hook: seen.append(dict(hook.ctx)))
    bridge(TOKENS)
    bridge(TOKENS)
    assert seen == [{"calls": 1}, {"calls": 2}]  # shared by the hooks of one name, and no other
    bridge.clear_contexts()
    bridge(TOKENS)
    assert seen[2:] == [{"calls": 1}]
    bridge.reset_hooks(clear_contexts=False)
    bridge.add_hook("blocks.0.hook_resid_mid", lambda x, hook: seen.append(dict(hook.ctx)))
    bridge(TOKENS)
    assert seen[3:] == [{"calls": 1}]
    bridge.reset_hooks()
    bridge.add_hook("blocks.0.hook_resid_mid", lambda x, hook: seen.append(dict(hook.ctx)))
    bridge(TOKENS)
    assert seen[4:] == [{}]


def test_forward_and_backward_hooks_of_one_name_share_a_context(bridge: Any) -> None:
    seen = []
    bridge.add_hook(Z, count)
    bridge.add_hook(Z, lambda g, hook: seen.append((hook.dir, dict(hook.ctx))), dir="bwd")
    bridge(TOKENS, return_type="loss").backward()
    assert seen == [("bwd", {"calls": 1})]


def test_hooks_that_were_not_registered_together_do_not_share_a_context(bridge: Any) -> None:
    seen = []

    def look(value: torch.Tensor, hook: Any) -> None:
        seen.append(dict(hook.ctx))

    bridge.add_hook(Z, count)
    with bridge.hooks([(Z, count), (Z, look)]):
        bridge.run_with_hooks(TOKENS, [(Z, look)])
        bridge(TOKENS)
    assert seen == [{"calls": 1}, {}, {"calls": 2}]


@pytest.mark.parametrize("way", ["run_with_hooks", "hooks"])
@pytest.mark.parametrize("clear", [False, True])
def test_kept_hooks_keep_their_context_unless_it_is_cleared(
    bridge: Any, way: str, clear: bool
) -> None:
    bridge.add_hook("hook_embed", count)
    if way == "hooks":
        with bridge.hooks([(Z, count)], reset_hooks_end=False, clear_contexts=clear):
            bridge(TOKENS)
    else:
        bridge.run_with_hooks(TOKENS, [(Z, count)], reset_hooks_end=False, clear_contexts=clear)
    seen = {}
    bridge.add_hook([Z, "hook_embed"], lambda x, hook: seen.update({hook.name: dict(hook.ctx)}))
    bridge(TOKENS)
    assert seen == {Z: {"calls": 1 if clear else 2}, "hook_embed": {"calls": 2}}


@pytest.mark.parametrize("clear", [False, True])
def test_clear_contexts_empties_the_context_for_those_who_hold_it(bridge: Any, clear: bool) -> None:
    held = []

    def keep(value: torch.Tensor, hook: Any) -> None:
        hook.ctx["value"] = 1
        held.append(hook.ctx)

    bridge.run_with_hooks(TOKENS, [(Z, keep)], clear_contexts=clear)
    with bridge.hooks([(Z, keep)], clear_contexts=clear):
        bridge(TOKENS)
    assert held == [{} if clear else {"value": 1}] * 2


# --- threads -------------------------------------------------------------------------------------


def test_standing_hooks_apply_in_every_thread_and_registering_loses_none(bridge: Any) -> None:
    calls: list[str] = []
    bridge.add_hook(Z, says("main", calls))
    thread = threading.Thread(target=bridge, args=(TOKENS,))
    thread.start()
    thread.join()
    assert calls == ["main"]
    bridge.reset_hooks()

    def add_many() -> None:
        for _ in range(200):
            bridge.add_hook(Z, nothing)

    threads = [threading.Thread(target=add_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        bridge(TOKENS[:, :2])
    for thread in threads:
        thread.join()
    assert len(bridge.list_hooks()[Z]) == 800
