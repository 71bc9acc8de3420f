"""A sampled bundle holds slices of the whole one, and fingerprints of what it leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import bezel
from bezel.cache_values import axes_of
from bezel.errors import ArgumentError
from bezel.reference import Sample, capture_reference, capturing
from bezel.reference.bundle import Bundle
from bezel.reference.sampling import spread
from support.references import Bundles

SAMPLE = Sample(positions=5, dims=7)
NAMES = ("nano", "moe", "e2b")
POSITIONS = ("pos", "q_pos", "k_pos")
CHOICES = ("moe.hook_expert_indices", "moe.hook_router_probs")


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_slices_of_the_whole(bundles: Bundles, name: str) -> None:
    whole, parts = bundles.read(name), bundles.read(name, sample=SAMPLE)
    n_parts = 0
    for case, outcome in parts.outcomes.items():
        for key, kept in outcome.acts.items():
            want = whole.outcomes[case].acts[key].value
            if not kept.is_part:
                assert torch.equal(kept.value, want)
                continue
            n_parts += 1
            for dim, axis in enumerate(axes_of(key)):
                if axis in ("pos", "q_pos"):
                    want = want.index_select(dim, kept.positions)
                elif axis == "k_pos":
                    assert kept.value.shape[dim] == want.shape[dim]
                elif dim == want.ndim - 1:
                    want = want.index_select(dim, kept.dims)
            assert torch.equal(kept.value, want), (case, key)
    assert n_parts > 100


@pytest.mark.parametrize("name", NAMES)
def test_a_part_is_no_larger_than_asked(bundles: Bundles, name: str) -> None:
    for outcome in bundles.read(name, sample=SAMPLE).outcomes.values():
        length = outcome.case.tokens.shape[1]
        for key, kept in outcome.acts.items():
            if key.endswith(CHOICES):
                continue
            for axis, size in zip(axes_of(key), kept.value.shape, strict=True):
                if axis in ("pos", "q_pos"):
                    assert size == min(length, SAMPLE.positions)
            if axes_of(key)[-1] not in POSITIONS:
                assert kept.value.shape[-1] <= SAMPLE.dims
            if kept.is_part:
                assert {0, length - 1} <= set(kept.positions.tolist())


def test_choices_of_experts_are_kept_whole(bundles: Bundles) -> None:
    whole, parts = bundles.read("moe"), bundles.read("moe", sample=Sample(1, 1))
    n_choices = 0
    for case, outcome in parts.outcomes.items():
        for key in filter(lambda key: key.endswith(CHOICES), outcome.acts):
            n_choices += 1
            assert torch.equal(outcome.acts[key].value, whole.outcomes[case].acts[key].value)
    assert n_choices > len(parts.outcomes)


@pytest.mark.parametrize("name", NAMES)
def test_norm_and_sum_are_those_of_the_whole_at_valid_positions(
    bundles: Bundles, name: str
) -> None:
    whole, parts = bundles.read(name), bundles.read(name, sample=SAMPLE)
    for case, outcome in parts.outcomes.items():
        valid = outcome.case.attention_mask.bool()
        for key, kept in outcome.acts.items():
            if not kept.is_part:
                continue
            value, norm, total = whole.outcomes[case].acts[key].value.double(), 0.0, 0.0
            for row in range(len(value)):
                part = value[row]
                for dim, axis in enumerate(axes_of(key)[1:]):
                    if axis in POSITIONS:
                        part = part.index_select(dim, valid[row].nonzero().flatten())
                if key.endswith("attn.hook_attn_scores"):
                    part = part[part > -1e38]
                norm, total = norm + part.pow(2).sum().item(), total + part.sum().item()
            assert kept.norm == pytest.approx(norm**0.5, rel=1e-9), (case, key)
            assert kept.sum == pytest.approx(total, rel=1e-9, abs=1e-7 * norm**0.5), (case, key)


def test_everything_else_is_that_of_the_whole(bundles: Bundles) -> None:
    whole, parts = bundles.read("moe"), bundles.read("moe", sample=SAMPLE)
    assert parts.weights == whole.weights
    for case, outcome in parts.outcomes.items():
        want = whole.outcomes[case]
        for field in ("logits_relative_rms", "logits_kl", "top1"):
            assert getattr(outcome.bfloat16, field) == getattr(want.bfloat16, field)
        assert outcome.loss == want.loss
        assert torch.equal(outcome.logits.full, want.logits.full)
        assert torch.equal(outcome.greedy.tokens, want.greedy.tokens)


def test_layer_by_layer_samples_alike(bundles: Bundles) -> None:
    parts = bundles.file("e2b", sample=SAMPLE)
    layered = bundles.file("e2b", sample=SAMPLE, layer_by_layer=True)
    assert parts.read_bytes() == layered.read_bytes()


@pytest.mark.parametrize("limit", [10_000, 3_000_000])
def test_what_would_be_too_large_is_sampled_from_the_first_value_on(
    bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Wherever the limit is met, the file is that of the sample."""
    monkeypatch.setattr(capturing, "EVERYTHING_UP_TO_BYTES", limit)
    file = capture_reference(bundles.folder("mha"), tmp_path / "x.h5", verbose=False)
    wanted = capture_reference(
        bundles.folder("mha"), tmp_path / "y.h5", sample=Sample(), verbose=False
    )
    assert file.read_bytes() == wanted.read_bytes()
    bundle: Bundle = bezel.reference.read(file)
    assert any(kept.is_part for kept in bundle.outcomes["prose"].acts.values())


@pytest.mark.parametrize("sample", [Sample(0, 4), Sample(4, 0), Sample(-1, 1)])
def test_a_sample_of_nothing_is_refused(tmp_path: Path, bundles: Bundles, sample: Sample) -> None:
    with pytest.raises(ArgumentError, match="keeps nothing"):
        capture_reference(bundles.folder("mha"), tmp_path / "x.h5", sample=sample)


def test_kept_indices_are_spread_and_hold_both_ends() -> None:
    for size in (1, 2, 5, 48, 1000):
        for n in (1, 2, 5, 16, 1000):
            got = spread(n, size).tolist()
            assert got == sorted(set(got))
            assert len(got) == min(n, size)
            assert got[-1] == size - 1
            assert n == 1 or got[0] == 0
