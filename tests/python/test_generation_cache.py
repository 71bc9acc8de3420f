"""What return_cache records while generating is what one run over the whole text records."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import bezel
from support import compare, fixtures
from support.lab import Lab
from support.prompts import Prompts

NAMES = tuple(fixtures.RECIPES)
LENGTHS = (3, 12, 7)
PROMPTS = Prompts(LENGTHS, seed=1)  # no media id comes of it: one alone is refused
N_PROMPT = max(LENGTHS)
N_NEW = 24  # past every window


def generated(bridge: bezel.Bridge, **arguments: Any) -> Any:
    return PROMPTS.generated(bridge, N_NEW, **arguments)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_the_cache_of_a_generation_is_that_of_one_run(lab: Lab, name: str, cached: bool) -> None:
    """Under every name, the on-demand ones too, scores and pattern over all keys."""
    bridge, points, names = lab.bridge(name), lab.points(name), lab.names(name)
    tokens, cache = generated(
        bridge, return_cache=True, names_filter=names, use_past_kv_cache=cached
    )
    mask = PROMPTS.mask(N_NEW - 1)
    _, want = bridge.run_with_cache(tokens[:, :-1], names, attention_mask=mask)
    assert set(cache.keys()) == set(want.keys()) == set(names)
    for point in points:
        assert cache[point.name].shape == want[point.name].shape
        assert cache[point.name].dtype == want[point.name].dtype
    for row in range(len(LENGTHS)):
        valid = mask[row].bool()
        parts = [compare.valid_part(points, values, row, valid) for values in (cache, want)]
        assert not compare.disagreements(points, *parts)


def test_without_a_filter_the_cache_has_the_names_of_run_with_cache(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    tokens, cache = generated(bridge, return_cache=True)
    _, want = bridge.run_with_cache(tokens[:, :-1], attention_mask=PROMPTS.mask(N_NEW - 1))
    assert list(cache.keys()) == list(want.keys())


def test_the_cache_is_recorded_without_a_second_run(lab: Lab) -> None:
    bridge, calls = lab.bridge("e2b"), []
    with bridge.hooks([("hook_embed", lambda value, hook: calls.append(value.shape[1]))]):
        generated(bridge, return_cache=True, output_logits=True)
    assert calls == [N_PROMPT] + [1] * (N_NEW - 1)


@pytest.mark.parametrize("name", ["e2b", "twelve_b"])
def test_a_filter_keeps_what_it_names(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name)
    chosen = "blocks.*.attn.hook_pattern"
    _, cache = generated(bridge, return_cache=True, names_filter=chosen)
    assert list(cache.keys()) == [
        f"blocks.{layer}.attn.hook_pattern" for layer in range(bridge.cfg.n_layers)
    ]
    n = N_PROMPT + N_NEW - 1
    for pattern in cache.values():
        assert pattern.shape[2:] == (n, n)
        sums = pattern.sum(-1)[
            PROMPTS.mask(N_NEW - 1).bool()[:, None].expand(-1, pattern.shape[1], -1)
        ]
        torch.testing.assert_close(sums, torch.ones_like(sums))


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_the_new_tokens_were_taken_from(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name)
    tokens, logits, cache = generated(bridge, output_logits=True, return_cache=True)
    assert logits.shape == (len(LENGTHS), N_NEW, fixtures.VOCAB)
    assert torch.equal(logits.argmax(-1), tokens[:, N_PROMPT:])
    want = bridge(tokens[:, :-1], attention_mask=PROMPTS.mask(N_NEW - 1))[:, N_PROMPT - 1 :]
    assert (logits - want).abs().max() <= compare.logits_gate(want)
    assert torch.equal(cache["hook_logits"][:, N_PROMPT - 1 :], logits)
    alone, only = generated(bridge, output_logits=True)
    assert torch.equal(alone, tokens)
    torch.testing.assert_close(only, logits, rtol=0.0, atol=compare.logits_gate(logits))


def test_a_cache_ends_where_the_last_row_ends(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    free = generated(bridge)
    every = sorted(set(free[:, N_PROMPT + 4].tolist()))
    tokens, logits, cache = generated(
        bridge, stop_at_eos=True, eos_token_id=every, return_cache=True, output_logits=True
    )
    n_new = tokens.shape[1] - N_PROMPT
    assert n_new <= 5
    assert logits.shape[1] == n_new
    assert cache["resid_post", -1].shape[1] == tokens.shape[1] - 1
    # The rows that go on see nothing of those that have ended.
    _, want = bridge.run_with_cache(free[:, : tokens.shape[1] - 1], "blocks.*.hook_resid_post",
                                    attention_mask=PROMPTS.mask(n_new - 1))  # fmt: skip
    for row in range(len(LENGTHS)):
        new = tokens[row, N_PROMPT:].tolist()
        ends = next((i for i, token in enumerate(new) if token in every), n_new)
        valid = PROMPTS.mask(n_new - 1)[row].bool()
        valid[N_PROMPT + ends + 1 :] = False
        for name in want:
            gap = compare.relative_rms(cache[name][row, valid], want[name][row, valid])
            assert gap < compare.RELATIVE_RMS


def test_values_of_a_generation_do_not_change_with_the_next(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    _, cache = generated(bridge, return_cache=True)
    before = {name: value.clone() for name, value in cache.items()}
    generated(bridge, return_cache=True)
    assert all(torch.equal(before[name], value) for name, value in cache.items())


def test_one_new_token_has_the_cache_of_the_prompt(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    tokens, cache = bridge.generate(
        PROMPTS.tokens(), 1, return_cache=True, attention_mask=PROMPTS.mask()
    )
    assert tokens.shape[1] == N_PROMPT + 1
    _, want = bridge.run_with_cache(PROMPTS.tokens(), attention_mask=PROMPTS.mask())
    valid = PROMPTS.mask().bool()
    gap = compare.relative_rms(cache["resid_post", -1][valid], want["resid_post", -1][valid])
    assert gap < compare.RELATIVE_RMS
