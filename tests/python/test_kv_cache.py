"""Runs that hand each other keys and values equal one run of all the tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import bezel
from bezel.errors import ArgumentError
from support import compare, fixtures
from support.lab import Lab
from support.prompts import Prompts

NAMES = tuple(fixtures.RECIPES)
LENGTH = 33
PROMPTS = Prompts((3, LENGTH, 20))
PARTS = (31, 1, 1), (5, 7, 1, 20), (1, 2, 30)


def in_parts(
    bridge: bezel.Bridge, tokens: torch.Tensor, parts: tuple[int, ...], **by_position: torch.Tensor
) -> torch.Tensor:
    """The logits of all positions."""
    kv_cache, logits = bezel.KvCache(bridge), []
    for place, part in zip(torch.tensor(parts).cumsum(0).tolist(), parts, strict=True):
        new = slice(place - part, place)
        given = {name: value[:, new] for name, value in by_position.items()}
        logits.append(bridge(tokens[:, new], kv_cache=kv_cache, **given))
        assert len(kv_cache) == kv_cache.n_seen == place
    return torch.cat(logits, 1)


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("name", NAMES)
def test_runs_of_parts_equal_one_run(lab: Lab, name: str, parts: tuple[int, ...]) -> None:
    bridge, tokens = lab.bridge(name), fixtures.tokens(LENGTH)
    want = bridge(tokens)
    assert (in_parts(bridge, tokens, parts) - want).abs().max() <= compare.logits_gate(want)


@pytest.mark.parametrize("path", ["automatic", "open"])
@pytest.mark.parametrize("name", ["e2b", "moe"])
def test_runs_of_padded_parts_equal_one_run(lab: Lab, name: str, path: str) -> None:
    bridge, mask = lab.bridge(name, path=path), PROMPTS.mask()
    tokens = PROMPTS.tokens()
    want = bridge(tokens, attention_mask=mask)
    for parts in PARTS[:1]:  # a row must have begun in the first run
        got = in_parts(bridge, tokens, parts, attention_mask=mask)
        gap = (got - want)[mask.bool()].abs().max()
        assert gap <= compare.logits_gate(want)


def test_given_positions_hold_for_the_new_tokens(lab: Lab) -> None:
    bridge, tokens = lab.bridge("mha"), fixtures.tokens(LENGTH)
    positions = torch.stack([torch.arange(LENGTH) + 3, torch.arange(LENGTH) * 2])
    want = bridge(tokens, position_ids=positions)
    got = in_parts(bridge, tokens, PARTS[1], position_ids=positions)
    assert (got - want).abs().max() <= compare.logits_gate(want)


def test_the_cache_knows_positions_and_padding(lab: Lab) -> None:
    bridge, mask = lab.bridge("e2b"), PROMPTS.mask()
    tokens = PROMPTS.tokens()
    kv_cache = bezel.KvCache(bridge)
    assert kv_cache.positions is None
    bridge(tokens, kv_cache=kv_cache)
    want = torch.where(mask == 1, mask.cumsum(1) - 1, -1)
    assert torch.equal(kv_cache.positions, want)
    kv_cache.positions.fill_(-1)  # a copy
    assert torch.equal(kv_cache.positions, want)
    assert repr(kv_cache) == f"KvCache(n_seen={LENGTH})"


def test_values_of_a_later_run_have_the_keys_that_it_sees(lab: Lab) -> None:
    """Sliding layers: window - 1 and the new ones."""
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(LENGTH)
    window, kv_cache = fixtures.RECIPES["e2b"].window, bezel.KvCache(bridge)
    _, want = bridge.run_with_cache(tokens)
    bridge(tokens[:, :20], kv_cache=kv_cache)
    _, cache = bridge.run_with_cache(tokens[:, 20:], kv_cache=kv_cache)
    assert list(cache.keys()) == list(want.keys())
    for layer, kind in enumerate(fixtures.RECIPES["e2b"].layers):
        name = f"blocks.{layer}.attn.hook_pattern"
        n_keys = LENGTH if kind == "f" else LENGTH - 20 + window - 1
        assert cache[name].shape == (2, 4, LENGTH - 20, n_keys)
        gap = compare.relative_rms(cache[name], want[name][:, :, 20:, LENGTH - n_keys :])
        assert gap < compare.RELATIVE_RMS


def test_a_run_that_raises_leaves_the_cache_as_it_was(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(LENGTH)
    want = bridge(tokens)

    def fail(value: torch.Tensor, hook: bezel.Hook) -> None:
        raise RuntimeError("enough")

    for layer in range(8):
        kv_cache = bezel.KvCache(bridge)
        for begin, end in ((0, 12), (12, 13), (13, LENGTH)):
            with (
                bridge.hooks([(f"blocks.{layer}.hook_resid_post", fail)]),
                pytest.raises(RuntimeError, match="enough"),
            ):
                bridge(tokens[:, begin : begin + 3], kv_cache=kv_cache)
            assert kv_cache.n_seen == begin
            got = bridge(tokens[:, begin:end], kv_cache=kv_cache)
            assert (got - want[:, begin:end]).abs().max() <= compare.logits_gate(want)


def test_without_logits_the_keys_are_kept_all_the_same(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(LENGTH)
    kv_cache = bezel.KvCache(bridge)
    assert bridge(tokens[:, :-1], kv_cache=kv_cache, return_type=None) is None
    got = bridge(tokens[:, -1:], kv_cache=kv_cache)
    want = bridge(tokens)[:, -1:]
    assert (got - want).abs().max() <= compare.logits_gate(want)


def test_edits_stay_in_the_cache(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(LENGTH)
    hooks = [("blocks.3.attn.hook_rot_k", lambda k, hook: k.roll(1, -1))]
    want = bridge.run_with_hooks(tokens, [(hooks[0][0], lambda k, hook: first(k))])[:, 20:]
    kv_cache = bezel.KvCache(bridge)
    bridge.run_with_hooks(tokens[:, :20], hooks, kv_cache=kv_cache)
    got = bridge(tokens[:, 20:], kv_cache=kv_cache)
    assert (got - want).abs().max() <= compare.logits_gate(want)
    assert (got - bridge(tokens)[:, 20:]).abs().max() > 1e-3


def first(keys: torch.Tensor) -> torch.Tensor:
    return torch.cat([keys[:, :20].roll(1, -1), keys[:, 20:]], 1)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "blocks before the last": ({"stop_at_layer": 3}, "kv_cache needs a run of all blocks"),
    "something else": ({"kv_cache": 3}, "kv_cache is a int; wanted a bezel.KvCache"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_cache_cannot_serve_is_refused(lab: Lab, case: str) -> None:
    arguments, message = REFUSED[case]
    bridge = lab.bridge("e2b")
    with pytest.raises(ArgumentError, match=message):
        bridge(fixtures.tokens(9), **({"kv_cache": bezel.KvCache(bridge)} | arguments))


def test_starting_in_the_middle_is_refused(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(9)
    _, cache = bridge.run_with_cache(tokens)
    with pytest.raises(ArgumentError, match="kv_cache needs a run of all blocks"):
        bridge(
            cache["resid_pre", 2], start_at_layer=2, tokens=tokens, start_state=cache,
            kv_cache=bezel.KvCache(bridge),
        )  # fmt: skip


def test_a_frozen_cache_is_a_prefix_of_many_runs(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(LENGTH)
    logits, cache = bridge.run_with_cache(tokens)
    kv_cache = bezel.KvCache(bridge)
    bridge(tokens[:, :20], kv_cache=kv_cache)
    kv_cache.freeze()
    assert kv_cache.frozen
    assert repr(kv_cache) == "KvCache(n_seen=20, frozen)"
    state = {name: cache[name][:, 20:] for name in cache if "rot_k" in name or "v_normed" in name}
    state["ple.hook_inputs"] = cache["ple.hook_inputs"][:, 20:]
    for _ in range(2):
        got = bridge(tokens[:, 20:].repeat(2, 1), kv_cache=kv_cache)
        want = logits[:, 20:].repeat(2, 1, 1)
        assert (got - want).abs().max() <= compare.logits_gate(want)
        got = bridge(
            cache["resid_pre", 5][:, 20:], start_at_layer=5, start_state=state, kv_cache=kv_cache
        )
        assert (got - logits[:, 20:]).abs().max() <= compare.logits_gate(logits)
    kv_cache.unfreeze()
    assert not kv_cache.frozen
    bridge(tokens[:, 20:], kv_cache=kv_cache)
    assert kv_cache.n_seen == LENGTH


def test_gradients_are_refused(lab: Lab) -> None:
    bridge, kv_cache = lab.bridge("e2b"), bezel.KvCache(lab.bridge("e2b"))
    with pytest.raises(ArgumentError, match="gradients were asked for"):
        bridge.run_with_cache(fixtures.tokens(9), incl_bwd=True, kv_cache=kv_cache)
    with pytest.raises(ArgumentError, match="gradients were asked for"):
        bridge.run_with_hooks(
            fixtures.tokens(9), bwd_hooks=[("hook_embed", lambda g, hook: None)], kv_cache=kv_cache
        )
    assert kv_cache.n_seen == 0


def test_another_batch_and_another_model_are_refused(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    kv_cache = bezel.KvCache(bridge)
    bridge(fixtures.tokens(9), kv_cache=kv_cache)
    with pytest.raises(ArgumentError, match="kv_cache holds a batch of 2; the input has 3 rows"):
        bridge(fixtures.tokens(1, 3), kv_cache=kv_cache)
    with pytest.raises(ArgumentError, match="it was made for another model"):
        lab.bridge("mha")(fixtures.tokens(1), kv_cache=kv_cache)
    assert kv_cache.n_seen == 9
