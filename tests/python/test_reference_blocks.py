"""Logits that come some positions at a time make the bundle that they make together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import bezel
from bezel.reference import Sample, capture_reference, head
from bezel.reference.bundle import Outcome
from bezel.reference.judging import Bfloat16
from bezel.reference.layered import _groups
from support.fixtures import VOCAB
from support.references import N_NEW, Bundles

SAMPLE = Sample(positions=5, dims=7)
ROWS = 7  # of logits in a block: fewer than any case has, more than one position of a batch


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_BLOCK_BYTES", 4 * VOCAB * ROWS)


@pytest.mark.parametrize("sample", [None, SAMPLE])
@pytest.mark.parametrize("layered", [False, True])
@pytest.mark.usefixtures("small_blocks")
def test_blocks_make_the_bundle_of_whole_cases(
    bundles: Bundles, tmp_path: Path, layered: bool, sample: Sample | None
) -> None:
    together = bundles.read("e2b") if sample is None else bundles.read("e2b", sample=sample)
    file = capture_reference(
        bundles.folder("e2b"), tmp_path / "x.h5", sample=sample, layer_by_layer=layered,
        new_tokens=N_NEW, verbose=False,
    )  # fmt: skip
    for case, outcome in bezel.reference.read(file).outcomes.items():
        same(outcome, together.outcomes[case])


def same(got: Outcome, want: Outcome) -> None:
    """But for rounding: products of fewer rows may be summed in another order."""
    assert list(got.acts) == list(want.acts)
    for name in head.HEAD:
        ours, theirs = got.acts[name], want.acts[name]
        torch.testing.assert_close(ours.value, theirs.value, rtol=1e-5, atol=1e-6)
        assert ours.is_part == theirs.is_part
        assert (ours.norm, ours.sum) == pytest.approx((theirs.norm, theirs.sum), rel=1e-4)
    assert got.logits is not None
    assert want.logits is not None
    assert torch.equal(got.logits.positions, want.logits.positions)
    for field in ("top_values", "log_sum_exp", "full"):
        ours, theirs = getattr(got.logits, field), getattr(want.logits, field)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert got.loss == pytest.approx(want.loss, rel=1e-6)
    torch.testing.assert_close(got.loss_per_token, want.loss_per_token, rtol=1e-5, atol=1e-6)
    alike(got.bfloat16, want.bfloat16)
    alike(got.bfloat16_stored, want.bfloat16_stored)


def alike(got: Bfloat16, want: Bfloat16) -> None:
    assert list(got.relative_rms) == list(want.relative_rms)
    for name in head.HEAD:
        assert got.relative_rms[name] == pytest.approx(want.relative_rms[name], rel=0.02)
    assert got.logits_kl == pytest.approx(want.logits_kl, rel=0.05)
    assert got.top1 == pytest.approx(want.top1, abs=0.05)


@pytest.mark.usefixtures("small_blocks")
def test_whole_models_give_the_same_bits_in_blocks(bundles: Bundles, tmp_path: Path) -> None:
    """Their logits are made at once, whatever is taken of them at a time."""
    folder, together = bundles.folder("moe"), bundles.read("moe")
    file = capture_reference(folder, tmp_path / "x.h5", new_tokens=N_NEW, verbose=False)
    for case, outcome in bezel.reference.read(file).outcomes.items():
        want = together.outcomes[case]
        for name in outcome.acts:
            assert torch.equal(outcome.acts[name].value, want.acts[name].value)
        assert torch.equal(outcome.logits.top_ids, want.logits.top_ids)
        assert torch.equal(outcome.logits.full, want.logits.full)
        assert torch.equal(outcome.loss_per_token, want.loss_per_token)
        assert outcome.bfloat16.top1 == want.bfloat16.top1
        assert outcome.bfloat16.logits_kl == pytest.approx(want.bfloat16.logits_kl, rel=1e-12)


@pytest.mark.usefixtures("small_blocks")
def test_blocks_cover_each_position_once_and_stay_small() -> None:
    shapes = [torch.Size(shape) for shape in ((1, 3), (1, 30), (3, 20), (9, 2), (1, 4))]
    seen = [torch.zeros(length, dtype=torch.int64) for _, length in shapes]
    order = []
    for group in _groups(shapes, VOCAB):
        rows = [shapes[k][0] * (block.end - block.begin) for k, block in group]
        assert sum(rows) <= ROWS or len(rows) == 1
        for k, block in group:
            seen[k][block.places] += 1
            order.append((k, block.begin))
    assert all((count == 1).all() for count in seen)
    assert order == sorted(order)
