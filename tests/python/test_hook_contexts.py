"""`with b.hooks(...)`: it nests, leaves what it found, and belongs to its thread or task."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from bezel.errors import (
    ArgumentError,
    HookNeverFiredError,
    HookResultError,
    UnknownHookError,
)
from support import fixtures
from support.hook_functions import says
from support.lab import Lab

TOKENS = fixtures.tokens(9)
Z = "blocks.1.attn.hook_z"


@pytest.fixture(scope="module")
def shared(lab: Lab) -> Any:
    return lab.bridge("e2b")


@pytest.fixture
def bridge(shared: Any) -> Iterator[Any]:
    assert shared.list_hooks() == {}
    yield shared
    assert shared.list_hooks() == {}, "a test of contexts left hooks behind"


def flipped(value: torch.Tensor, hook: Any) -> torch.Tensor:
    return value.flip(1)


def plus(amount: float) -> Callable[..., torch.Tensor]:
    return lambda value, hook: value + amount


# --- a context and what it leaves ----------------------------------------------------------------


def test_hooks_apply_inside_the_with_and_nowhere_else(bridge: Any) -> None:
    plain = bridge(TOKENS)
    want = bridge.run_with_hooks(TOKENS, [(Z, flipped)])
    assert not torch.equal(want, plain)
    made = bridge.hooks([(Z, flipped)])
    assert torch.equal(bridge(TOKENS), plain)  # made, and not yet entered
    with made as inside:
        assert inside is bridge
        assert torch.equal(bridge(TOKENS), want)
        assert torch.equal(bridge.run_with_cache(TOKENS, "hook_embed")[0], want)
    assert torch.equal(bridge(TOKENS), plain)


def test_contexts_nest_and_leave_what_they_found(bridge: Any) -> None:
    _, plain = bridge.run_with_cache(TOKENS, Z)

    def value() -> torch.Tensor:
        return bridge.run_with_cache(TOKENS, Z)[1][Z]

    with bridge.hooks([(Z, lambda z, hook: z * 3)]):
        with bridge.hooks([(Z, plus(1))]):
            assert torch.equal(value(), plain[Z] * 3 + 1)
            with bridge.hooks([(Z, lambda z, hook: z * 2)]):
                assert torch.equal(value(), (plain[Z] * 3 + 1) * 2)
            assert torch.equal(value(), plain[Z] * 3 + 1)
        assert torch.equal(value(), plain[Z] * 3)
    assert torch.equal(value(), plain[Z])


@pytest.mark.parametrize("order", ["first in", "last in"])
def test_contexts_may_end_in_any_order(bridge: Any, order: str) -> None:
    calls: list[str] = []
    one, two = bridge.hooks([(Z, says("one", calls))]), bridge.hooks([(Z, says("two", calls))])
    one.__enter__()
    two.__enter__()
    first, second = (one, two) if order == "first in" else (two, one)
    first.__exit__(None, None, None)
    bridge(TOKENS)
    assert calls == ["two" if order == "first in" else "one"]
    second.__exit__(None, None, None)
    bridge(TOKENS)
    assert len(calls) == 1


def test_a_context_without_hooks_changes_nothing(bridge: Any) -> None:
    plain = bridge(TOKENS)
    with bridge.hooks():
        assert torch.equal(bridge(TOKENS), plain)


ENDINGS = {
    "an error of the block": (lambda b: 1 / 0, ZeroDivisionError),
    "an interrupt": (lambda b: (_ for _ in ()).throw(KeyboardInterrupt()), KeyboardInterrupt),
    "tokenisation": (lambda b: b("no tokenizer here"), ArgumentError),
    "a bad argument": (lambda b: b(TOKENS, attention_mask=3), ArgumentError),
    "an unknown argument": (lambda b: b(TOKENS, reset_hooks_end=True), TypeError),
    "an unknown name": (lambda b: b.run_with_cache(TOKENS, "hook_embeds"), UnknownHookError),
    "a hook that cannot fire": (
        lambda b: b.run_with_hooks(TOKENS, [("hook_logits", flipped)], stop_at_layer=1),
        HookNeverFiredError,
    ),
    "a wrong result": (lambda b: b.run_with_hooks(TOKENS, [(Z, plus)]), TypeError),
    "a wrong shape": (
        lambda b: b.run_with_hooks(TOKENS, [(Z, lambda z, hook: z[0])]),
        HookResultError,
    ),
    "an error of backward": (
        lambda b: b.run_with_hooks(
            TOKENS, bwd_hooks=[(Z, lambda g, hook: 1 / 0)], return_type="loss"
        ).backward(),
        ZeroDivisionError,
    ),
}


@pytest.mark.parametrize("keep", [False, True], ids=["", "kept"])
@pytest.mark.parametrize("kind", ENDINGS)
def test_an_error_inside_leaves_no_hook(bridge: Any, kind: str, keep: bool) -> None:
    fails, error = ENDINGS[kind]
    plain = bridge(TOKENS)
    with pytest.raises(error), bridge.hooks([(Z, flipped)], reset_hooks_end=not keep):
        fails(bridge)
    assert torch.equal(bridge(TOKENS), plain)
    assert bridge.list_hooks() == {}


def test_hooks_of_a_context_stand_afterwards_when_asked_to(bridge: Any) -> None:
    with bridge.hooks([(Z, plus(1))], reset_hooks_end=False):
        edited = bridge(TOKENS)
    try:
        assert torch.equal(bridge(TOKENS), edited)
        assert [hook.level for hook in bridge.list_hooks(Z)[Z]] == [1]
    finally:
        bridge.reset_hooks()


def test_the_context_of_hooks_lives_as_long_as_the_with(bridge: Any) -> None:
    counts = []

    def count(value: torch.Tensor, hook: Any) -> None:
        hook.ctx["calls"] = hook.ctx.get("calls", 0) + 1
        counts.append(hook.ctx["calls"])

    for _ in range(2):
        with bridge.hooks([(Z, count)]):
            bridge(TOKENS)
            bridge(TOKENS)
            bridge.clear_contexts()
            bridge(TOKENS)
    assert counts == [1, 2, 1] * 2


def test_what_a_hook_holds_is_free_after_the_with(bridge: Any) -> None:
    class Held:
        def __call__(self, value: torch.Tensor, hook: Any) -> None:
            hook.ctx["self"] = self

    held = Held()
    seen = weakref.ref(held)
    with bridge.hooks([(Z, held)]):
        bridge(TOKENS)
    bridge.run_with_hooks(TOKENS, [(Z, held)])
    del held
    gc.collect()
    assert seen() is None


def test_backward_hooks_belong_to_the_runs_made_inside(bridge: Any) -> None:
    calls: list[str] = []
    before = bridge.run_with_cache(TOKENS, Z, incl_bwd=True, return_type="both")[0][1]
    with bridge.hooks(bwd_hooks=[(Z, says("inside", calls))]):
        loss = bridge(TOKENS, return_type="loss")
        before.backward()
        assert calls == []
    loss.backward()
    assert calls == ["inside"]


def test_two_bridges_do_not_share_a_context(lab: Lab, bridge: Any) -> None:
    other = lab.bridge("mha")
    calls: list[str] = []
    with bridge.hooks([(Z, says("first", calls))]), other.hooks([(Z, says("second", calls))]):
        assert bridge.list_hooks()[Z][0].level == other.list_hooks()[Z][0].level == 1
        bridge(TOKENS)
        assert calls == ["first"]
        other(TOKENS)
        bridge.reset_hooks()
        other(TOKENS)
    assert calls == ["first", "second", "second"]


# --- threads and tasks ---------------------------------------------------------------------------


def test_a_context_belongs_to_the_thread_that_opened_it(bridge: Any) -> None:
    plain = bridge(TOKENS)
    edits = [lambda z, hook, by=i: z.roll(by + 1, 1) for i in range(4)]
    want = [bridge.run_with_hooks(TOKENS, [(Z, edit)]) for edit in edits]
    got: dict[int, list[torch.Tensor]] = {}
    together = threading.Barrier(4)

    def run(i: int) -> None:
        got[i] = [bridge(TOKENS)]
        with bridge.hooks([(Z, edits[i])]):
            together.wait()
            got[i] += [bridge(TOKENS) for _ in range(10)]
            together.wait()
        got[i].append(bridge(TOKENS))

    with bridge.hooks([(Z, plus(100))]):
        threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i in range(4):
        assert torch.equal(got[i][0], plain)
        assert all(torch.equal(logits, want[i]) for logits in got[i][1:-1])
        assert torch.equal(got[i][-1], plain)


def test_a_context_belongs_to_the_task_that_opened_it(bridge: Any) -> None:
    plain = bridge(TOKENS)
    want = [bridge.run_with_hooks(TOKENS, [(Z, plus(i))]) for i in (1, 2)]

    async def run(i: int) -> None:
        with bridge.hooks([(Z, plus(i))]):
            await asyncio.sleep(0.01)
            assert torch.equal(bridge(TOKENS), want[i - 1])
            await asyncio.sleep(0.01)
            assert torch.equal(bridge(TOKENS), want[i - 1])
        assert torch.equal(bridge(TOKENS), plain)

    async def both() -> None:
        await asyncio.gather(run(1), run(2))

    asyncio.run(both())


def test_a_task_started_inside_has_the_hooks_until_the_with_ends(bridge: Any) -> None:
    plain = bridge(TOKENS)
    want = bridge.run_with_hooks(TOKENS, [(Z, plus(1))])

    async def inner(ended: asyncio.Event) -> None:
        assert torch.equal(bridge(TOKENS), want)
        bridge.reset_hooks()  # of its own view
        assert torch.equal(bridge(TOKENS), plain)

    async def late(ended: asyncio.Event) -> None:
        await ended.wait()
        assert torch.equal(bridge(TOKENS), plain)

    async def outer() -> None:
        ended = asyncio.Event()
        with bridge.hooks([(Z, plus(1))]):
            waits = asyncio.create_task(late(ended))
            await asyncio.create_task(inner(ended))
            assert torch.equal(bridge(TOKENS), want)
        ended.set()
        await waits

    asyncio.run(outer())


def test_a_context_copied_elsewhere_ends_with_the_with(bridge: Any) -> None:
    plain = bridge(TOKENS)
    with bridge.hooks([(Z, flipped)]):
        copy = contextvars.copy_context()
        assert not torch.equal(copy.run(bridge, TOKENS), plain)
    assert torch.equal(copy.run(bridge, TOKENS), plain)


# --- on-demand values ----------------------------------------------------------------------------

ON_DEMAND = [
    *(f"blocks.1.{x}" for x in ("hook_attn_in", "hook_mlp_in", "attn.hook_result")),
    *(f"blocks.1.hook_{x}_input" for x in "qkv"),
    *(f"blocks.1.moe.hook_expert_{x}" for x in ("pre", "pre_linear", "post", "out")),
]


@pytest.mark.parametrize("name", ON_DEMAND)
def test_on_demand_values_are_edited_through_contexts_and_standing_hooks(
    lab: Lab, name: str
) -> None:
    bridge = lab.bridge("moe")
    plain = bridge(TOKENS)
    want = bridge.run_with_hooks(TOKENS, [(name, flipped)])
    assert not torch.allclose(want, plain, atol=1e-3)
    with bridge.hooks([(name, flipped)]):
        assert torch.equal(bridge(TOKENS), want)
        with bridge.hooks([(name, flipped)]):
            torch.testing.assert_close(bridge(TOKENS), plain)
    bridge.add_hook(name, flipped)
    assert torch.equal(bridge(TOKENS), want)
    bridge.reset_hooks()
    assert torch.equal(bridge(TOKENS), plain)
