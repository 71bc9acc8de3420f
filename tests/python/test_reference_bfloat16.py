"""The bfloat16 part: how far transformers in bfloat16 is from itself in float32."""

from __future__ import annotations

import copy

import pytest
import torch

from bezel.cache_values import axes_of
from bezel.reference.bundle import Outcome
from bezel.reference.head import HEAD
from bezel.reference.judging import Bfloat16
from bezel.reference.sampling import Kept, Sample
from support import reference
from support.lab import Lab
from support.references import Bundles

NAMES = ("e2b", "moe", "unified")
POSITIONS = ("pos", "q_pos", "k_pos")
Values = reference.Values


def rounded(model: torch.nn.Module) -> torch.nn.Module:
    """A copy with every weight rounded to bfloat16, still in float32."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in [*twin.parameters(), *(b for n, b in twin.named_buffers() if "scalar" in n)]:
            tensor.copy_(tensor.bfloat16().float())
    return twin


def run(model: torch.nn.Module, outcome: Outcome) -> Values:
    mask = outcome.case.attention_mask
    return reference.capture(model, outcome.case.tokens, mask, reference.positions_from(mask))


def inside(name: str, row: torch.Tensor, kept: Kept) -> torch.Tensor:
    """True at what a part keeps of a row of a value."""
    found = torch.zeros_like(row, dtype=torch.bool)
    axes, places = axes_of(name)[1:], []
    for dim, axis in enumerate(axes):
        is_last = dim == len(axes) - 1 and axis != "k_pos"
        every = torch.arange(row.shape[dim])
        dims = kept.dims if is_last else every
        places.append(kept.positions if axis in ("pos", "q_pos") else dims)
    found[torch.meshgrid(*places, indexing="ij")] = True
    return found


def error_by_loops(
    name: str, got: Values, want: Values, mask: torch.Tensor, kept: Kept | None = None
) -> float:
    """Row by row; only what both runs computed on valid positions with the same experts."""
    gap, size, layer = 0.0, 0.0, name.split(".")[1] if name.startswith("blocks.") else ""
    for row in range(len(mask)):
        ours, theirs = got[name][row].double(), want[name][row].double()
        keep = (
            torch.ones_like(theirs, dtype=torch.bool)
            if kept is None
            else inside(name, theirs, kept)
        )
        if "k" in axes_of(name):
            choice = f"blocks.{layer}.moe.hook_expert_indices"
            same = got[choice][row] == want[choice][row]
            keep &= same.reshape(*same.shape, *[1] * (keep.ndim - 2))
        for dim, axis in enumerate(axes_of(name)[1:]):
            if axis in POSITIONS:
                where = mask[row].nonzero().flatten()
                ours, theirs, keep = (x.index_select(dim, where) for x in (ours, theirs, keep))
        if name.endswith("hook_attn_scores"):
            keep &= theirs > -1e38
        gap += (ours - theirs)[keep].pow(2).sum().item()
        size += theirs[keep].pow(2).sum().item()
    return (gap / size) ** 0.5 if gap else 0.0


def check(found: Bfloat16, narrow: Values, want: Values, outcome: Outcome) -> None:
    mask = outcome.case.attention_mask
    valid = mask.bool()
    for name, error in found.relative_rms.items():
        expected = error_by_loops(name, narrow, want, mask)
        assert error == pytest.approx(expected, rel=1e-6, abs=1e-12), name
    p, q = (x["hook_logits"][valid].double().log_softmax(-1) for x in (want, narrow))
    assert found.logits_kl == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=1e-6)
    agree = (p.argmax(-1) == q.argmax(-1)).double().mean().item()
    assert found.top1 == pytest.approx(agree)
    assert found.logits_relative_rms == found.relative_rms["hook_logits"]


@pytest.mark.parametrize("name", NAMES)
def test_errors_are_those_of_plain_runs(bundles: Bundles, lab: Lab, name: str) -> None:
    stored = lab.reference(name)
    oracle, narrow_model = rounded(stored), lab.reference(name, dtype=torch.bfloat16)
    for case in ("prose", "padded_left"):
        outcome = bundles.read(name).outcomes[case]
        narrow = run(narrow_model, outcome)
        check(outcome.bfloat16, narrow, run(oracle, outcome), outcome)
        check(outcome.bfloat16_stored, narrow, run(stored, outcome), outcome)


@pytest.mark.parametrize("name", ["e2b", "moe"])
def test_of_a_part_the_larger_error_counts(bundles: Bundles, lab: Lab, name: str) -> None:
    outcome = bundles.read(name, sample=Sample(2, 3)).outcomes["padded_left"]
    want = run(lab.reference(name), outcome)
    narrow = run(lab.reference(name, dtype=torch.bfloat16), outcome)
    larger = 0
    for key, error in outcome.bfloat16_stored.relative_rms.items():
        kept, mask = outcome.acts[key], outcome.case.attention_mask
        whole = error_by_loops(key, narrow, want, mask)
        part = error_by_loops(key, narrow, want, mask, kept) if kept.is_part else 0.0
        if key in HEAD:
            part = 0.0
        larger += part > whole
        assert error == pytest.approx(max(whole, part), rel=1e-6, abs=1e-12), key
    assert 10 < larger < len(outcome.bfloat16_stored.relative_rms) - 10


@pytest.mark.parametrize("name", NAMES)
def test_every_value_but_indices_has_an_error_of_bfloat16_s_size(
    bundles: Bundles, name: str
) -> None:
    for outcome in bundles.read(name).outcomes.values():
        errors = outcome.bfloat16.relative_rms
        floats = [k for k, v in outcome.acts.items() if v.value.is_floating_point()]
        assert list(errors) == floats
        assert all(0 <= error < 1 for error in errors.values())
        assert errors["hook_logits"] > 1e-4
        assert errors["blocks.0.ln1.hook_scale"] > 0
        assert outcome.bfloat16.logits_kl > 0
        assert 0.5 < outcome.bfloat16.top1 <= 1
        assert outcome.bfloat16.relative_rms != outcome.bfloat16_stored.relative_rms


@pytest.mark.parametrize("name", ["e2b", "moe"])
def test_weights_that_are_bfloat16_already_need_no_third_run(bundles: Bundles, name: str) -> None:
    """The float32 run of a published checkpoint is the oracle of its bfloat16 run."""
    published, stored = bundles.read(name, "bfloat16"), bundles.read(name)
    for case, outcome in published.outcomes.items():
        assert outcome.bfloat16 == outcome.bfloat16_stored
        # Equal weights at other addresses: products of few rows may be summed in another order.
        got, want = outcome.bfloat16, stored.outcomes[case].bfloat16
        assert got.relative_rms == pytest.approx(want.relative_rms, rel=1e-4)
        assert got.logits_kl == pytest.approx(want.logits_kl, rel=1e-3)
        assert got.top1 == want.top1
    assert {weight.dtype for weight in published.weights} == {"BF16"}
