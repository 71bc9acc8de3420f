"""Which runs standing hooks apply to, what a run keeps of its own, and how long hook.ctx lives."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from bezel.errors import (
    ArgumentError,
    HookNeverFiredError,
    UnknownHookError,
)
from support import fixtures
from support.hook_functions import doubled, nothing, says
from support.lab import Lab

TOKENS = fixtures.tokens(9)
Z = "blocks.3.attn.hook_z"
LATE = "blocks.7.hook_resid_post"


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


def test_floats_as_input_need_no_standing_hook_of_the_tokens(lab: Lab) -> None:
    bridge = lab.bridge("mha")
    embeddings = bridge.run_with_cache(TOKENS, "hook_embed")[1]["hook_embed"]
    want = bridge(embeddings)
    calls: list[str] = []
    bridge.add_hook(["hook_tokens", "hook_full_embed"], says("called", calls))
    assert torch.equal(bridge(embeddings), want)
    assert calls == ["called"]
    bridge.reset_hooks()


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
