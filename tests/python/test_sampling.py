"""Sampled tokens follow the distribution that was asked for; penalties do what they say."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

import bezel
from support import fixtures
from support.lab import Lab

N_DRAWS = 6000
N_SIGMA = 4.0  # of a chi-square's own spread: one seed in 10,000 or so lies beyond


def draws(bridge: bezel.Bridge, **arguments: Any) -> tuple[list[int], list[float]]:
    """One token for each of many equal rows, and the logits [d_vocab] they were taken from."""
    tokens = fixtures.tokens(6, 1).expand(N_DRAWS, 6)
    result, logits = bridge.generate(
        tokens, 1, do_sample=True, seed=5, output_logits=True, stop_at_eos=False, **arguments
    )
    return result[:, -1].tolist(), logits[0, 0].tolist()


def softmax(logits: list[float], temperature: float = 1.0) -> dict[int, float]:
    weights = [math.exp((one - max(logits)) / temperature) for one in logits]
    return {token: weight / sum(weights) for token, weight in enumerate(weights)}


def renormalised(kept: dict[int, float]) -> dict[int, float]:
    return {token: p / sum(kept.values()) for token, p in kept.items()}


def by_likelihood(probability: dict[int, float]) -> list[tuple[int, float]]:
    return sorted(probability.items(), key=lambda one: -one[1])


def likeliest(probability: dict[int, float], k: int) -> dict[int, float]:
    return renormalised(dict(by_likelihood(probability)[:k]))


def nucleus(probability: dict[int, float], p: float) -> dict[int, float]:
    kept: dict[int, float] = {}
    for token, one in by_likelihood(probability):
        kept[token] = one
        if sum(kept.values()) >= p:
            break
    return renormalised(kept)


def assert_drawn_from(tokens: list[int], probability: dict[int, float]) -> None:
    """Nothing outside of it, and a chi-square over tokens expected five times or more."""
    counts = Counter(tokens)
    assert set(counts) <= set(probability)
    rest = [0.0, 0.0]
    chi_square, n_bins = 0.0, 0
    for token, p in probability.items():
        expected = p * len(tokens)
        if expected < 5:
            rest[0] += counts[token]
            rest[1] += expected
            continue
        chi_square += (counts[token] - expected) ** 2 / expected
        n_bins += 1
    if rest[1] >= 5:
        chi_square += (rest[0] - rest[1]) ** 2 / rest[1]
        n_bins += 1
    freedom = n_bins - 1
    assert freedom > 1
    assert chi_square < freedom + N_SIGMA * math.sqrt(2 * freedom)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_draws_follow_the_softmax_at_a_temperature(lab: Lab, temperature: float) -> None:
    tokens, logits = draws(lab.bridge("mha"), temperature=temperature)
    assert_drawn_from(tokens, softmax(logits, temperature))


def test_draws_stay_among_the_k_likeliest(lab: Lab) -> None:
    tokens, logits = draws(lab.bridge("mha"), top_k=7)
    assert_drawn_from(tokens, likeliest(softmax(logits), 7))
    tokens, logits = draws(lab.bridge("mha"), top_k=10 * fixtures.VOCAB)
    assert_drawn_from(tokens, softmax(logits))


@pytest.mark.parametrize("p", [0.35, 0.9, 1.0])
def test_draws_stay_in_the_nucleus(lab: Lab, p: float) -> None:
    tokens, logits = draws(lab.bridge("mha"), top_p=p)
    assert_drawn_from(tokens, nucleus(softmax(logits), p) if p < 1 else softmax(logits))


def test_temperature_top_k_and_top_p_come_in_this_order(lab: Lab) -> None:
    tokens, logits = draws(lab.bridge("mha"), temperature=1.7, top_k=12, top_p=0.8)
    assert_drawn_from(tokens, nucleus(likeliest(softmax(logits, 1.7), 12), 0.8))


def test_a_tiny_top_p_leaves_the_likeliest(lab: Lab) -> None:
    tokens, logits = draws(lab.bridge("mha"), top_p=1e-6)
    assert set(tokens) == {max(range(len(logits)), key=logits.__getitem__)}


def test_rows_of_one_seed_draw_apart(lab: Lab) -> None:
    tokens, _ = draws(lab.bridge("mha"))
    assert len(set(tokens)) > 20


@pytest.mark.parametrize("name", ["e2b", "moe"])
def test_top_k_of_one_is_greedy(lab: Lab, name: str) -> None:
    bridge, tokens = lab.bridge(name), fixtures.tokens(9, 4)
    greedy = bridge.generate(tokens, 30, stop_at_eos=False)
    sampled = bridge.generate(
        tokens, 30, stop_at_eos=False, do_sample=True, top_k=1, temperature=3.0
    )
    assert torch.equal(sampled, greedy)


def test_a_seed_repeats_its_samples(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(9, 4)
    arguments: dict[str, Any] = {"do_sample": True, "stop_at_eos": False}
    first, again, other = (
        bridge.generate(tokens, 20, seed=seed, **arguments) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    uncached = bridge.generate(tokens, 20, seed=3, use_past_kv_cache=False, **arguments)
    assert torch.equal(first, uncached)


def test_a_seed_leaves_the_generator_of_torch_alone(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(9, 4)
    before = torch.get_rng_state()
    bridge.generate(tokens, 5, seed=3, do_sample=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_samples_follow_the_generator_of_torch(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(9, 4)
    runs = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        runs.append(bridge.generate(tokens, 20, do_sample=True, stop_at_eos=False))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def penalised(logits: list[float], text: list[int], repetition: float, frequency: float) -> int:
    """The likeliest token after both penalties: a slow loop."""
    scores = []
    for token, logit in enumerate(logits):
        n = text.count(token)
        if n > 0:
            logit = logit / repetition if logit > 0 else logit * repetition
        scores.append(logit - frequency * n)
    return max(range(len(scores)), key=scores.__getitem__)


@pytest.mark.parametrize(
    ("repetition", "frequency"), [(1.5, 0.0), (0.8, 0.0), (1.0, 0.7), (1.0, -0.2), (1.2, 0.3)]
)
def test_penalties_are_those_of_a_slow_loop(lab: Lab, repetition: float, frequency: float) -> None:
    """Over prompt and new tokens, with padding left out."""
    bridge, lengths = lab.bridge("e2b"), (9, 4)
    mask = (torch.arange(9).flip(0) < torch.tensor(lengths)[:, None]).long()
    tokens = fixtures.tokens(9)
    likely = int(bridge.generate(tokens[1:, -4:], 1, stop_at_eos=False)[0, -1])
    tokens = tokens.masked_fill(mask == 0, likely)  # were padding seen, this one would lose
    got = bridge.generate(
        tokens, 25, attention_mask=mask, stop_at_eos=False,
        repetition_penalty=repetition, freq_penalty=frequency,
    )  # fmt: skip
    plain = bridge.generate(tokens, 25, attention_mask=mask, stop_at_eos=False)
    for row, length in enumerate(lengths):
        text = tokens[row, -length:].tolist()
        for _ in range(25):
            ones = torch.ones(1, len(text), dtype=torch.int64)
            logits = bridge(torch.tensor([text]), attention_mask=ones)[0, -1].tolist()
            text.append(penalised(logits, text, repetition, frequency))
        assert got[row, -length - 25 :].tolist() == text
    assert not torch.equal(got, plain)


def test_the_repetition_penalty_is_that_of_transformers(lab: Lab) -> None:
    tokens = fixtures.tokens(9, 3)
    with torch.no_grad():
        want = lab.reference("e2b", attention="sdpa").generate(
            tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=40,
            eos_token_id=None, pad_token_id=0, repetition_penalty=1.4,
        )  # fmt: skip
    got = lab.bridge("e2b").generate(tokens, 40, stop_at_eos=False, repetition_penalty=1.4)
    assert torch.equal(got, want)


def test_penalties_hold_for_samples_too(lab: Lab) -> None:
    tokens, logits = draws(lab.bridge("mha"), freq_penalty=1.0, repetition_penalty=1.3)
    text = fixtures.tokens(6, 1)[0].tolist()
    scores = []
    for token, logit in enumerate(logits):
        n = text.count(token)
        if n:
            logit = logit / 1.3 if logit > 0 else logit * 1.3
        scores.append(logit - n)
    assert_drawn_from(tokens, softmax(scores))
