"""get_caching_hooks: as run_with_cache keeps values, beside the hooks of others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from bezel.errors import ArgumentError, UnknownHookError
from support import fixtures
from support.lab import Lab

TOKENS = fixtures.tokens(9)
Z = "blocks.1.attn.hook_z"


@pytest.fixture(scope="module")
def shared(lab: Lab) -> Any:
    return lab.bridge("e2b")


@pytest.fixture
def bridge(shared: Any) -> Iterator[Any]:
    yield shared
    shared.reset_hooks()


def plus(amount: float) -> Callable[..., torch.Tensor]:
    return lambda value, hook: value + amount


@pytest.mark.parametrize("where", ["run", "context", "standing"])
def test_caching_hooks_keep_what_run_with_cache_keeps(bridge: Any, where: str) -> None:
    names = [Z, "blocks.*.hook_resid_post", "blocks.2.attn.hook_pattern", "hook_tokens"]
    loss, want = bridge.run_with_cache(TOKENS, names, incl_bwd=True, return_type="loss")
    cache, fwd_hooks, bwd_hooks = bridge.get_caching_hooks(names, incl_bwd=True)
    assert cache == {}
    assert [name for name, _ in fwd_hooks] == [name for name in want if "_grad" not in name]
    assert [name for name, _ in bwd_hooks] == [n for n, _ in fwd_hooks if n != "hook_tokens"]
    if where == "run":
        got = bridge.run_with_hooks(TOKENS, fwd_hooks, bwd_hooks, return_type="loss")
    elif where == "context":
        with bridge.hooks(fwd_hooks, bwd_hooks):
            got = bridge(TOKENS, return_type="loss")
    else:
        for dir, pairs in (("fwd", fwd_hooks), ("bwd", bwd_hooks)):
            for name, function in pairs:
                bridge.add_hook(name, function, dir=dir)
        got = bridge(TOKENS, return_type="loss")
        bridge.reset_hooks()
    got.backward()
    assert torch.equal(got, loss)
    assert set(cache) == set(want)
    for name, value in cache.items():
        assert torch.equal(value, want[name]), name
        assert not value.requires_grad


def test_caching_hooks_take_the_arguments_of_run_with_cache(bridge: Any) -> None:
    names = [Z, "blocks.2.attn.hook_pattern"]
    for pos_slice in (-1, 3, slice(1, 7, 2), (2, 5), (None, -2)):
        _, want = bridge.run_with_cache(
            TOKENS[:1], names, pos_slice=pos_slice, remove_batch_dim=True
        )
        given: dict[str, torch.Tensor] = {}
        cache, fwd_hooks, bwd_hooks = bridge.get_caching_hooks(
            names, device="cpu", remove_batch_dim=True, cache=given, pos_slice=pos_slice
        )
        assert cache is given
        assert bwd_hooks == []
        bridge.run_with_hooks(TOKENS[:1], fwd_hooks)
        for name in names:
            torch.testing.assert_close(cache[name], want[name])  # a hook opens the op it stands in
            assert cache[name].untyped_storage().nbytes() == cache[name].nbytes  # no more is held


def test_caching_hooks_refuse_what_run_with_cache_refuses(bridge: Any) -> None:
    with pytest.raises(UnknownHookError, match="hook_zz"):
        bridge.get_caching_hooks("hook_zz")
    with pytest.raises(ArgumentError, match="empty"):
        bridge.get_caching_hooks([])
    for arguments, message in (
        ({"remove_batch_dim": True}, "2 rows; wanted 1"),
        ({"pos_slice": slice(5, 5)}, "keeps no position of 9"),
        ({"pos_slice": 9}, "keeps no position of 9"),
        ({"pos_slice": slice(None, None, -1)}, "step of at least 1"),
    ):
        _, fwd_hooks, _ = bridge.get_caching_hooks(Z, **arguments)
        with pytest.raises(ArgumentError, match=message):
            bridge.run_with_hooks(TOKENS, fwd_hooks)


def test_caching_hooks_and_other_hooks_work_side_by_side(bridge: Any) -> None:
    """A caching hook sees the edits before it; no cleanup removes the hooks of another."""
    plain = bridge.run_with_cache(TOKENS, Z)[1][Z]
    cache, caching, _ = bridge.get_caching_hooks(Z)
    bridge.run_with_hooks(TOKENS, [(Z, plus(1)), *caching, (Z, plus(2))])
    assert torch.equal(cache[Z], plain + 1)
    bridge.add_hook(Z, plus(3))
    with bridge.hooks(caching):
        bridge(TOKENS)
        assert torch.equal(cache[Z], plain + 3)
        _, own = bridge.run_with_cache(TOKENS, Z, fwd_hooks=[(Z, plus(4))])
        assert torch.equal(cache[Z], plain + 3)
        assert torch.equal(own[Z], plain + 3 + 4)
    assert torch.equal(bridge.run_with_cache(TOKENS, Z)[1][Z], plain + 3)
    bridge.reset_hooks()


def test_what_caching_hooks_keep_shares_no_memory_with_the_run(bridge: Any) -> None:
    cache, caching, _ = bridge.get_caching_hooks(Z)

    def overwrites(value: torch.Tensor, hook: Any) -> None:
        value.zero_()

    plain = bridge.run_with_cache(TOKENS, Z)[1][Z]
    logits = bridge.run_with_hooks(TOKENS, [*caching, (Z, overwrites)])
    assert torch.equal(cache[Z], plain)
    assert torch.equal(logits, bridge.run_with_hooks(TOKENS, [(Z, overwrites)]))

    def spoils(value: torch.Tensor, hook: Any) -> None:
        cache[Z].zero_()

    assert torch.equal(bridge.run_with_hooks(TOKENS, [*caching, (Z, spoils)]), bridge(TOKENS))
