"""Padding changes nothing: valid positions equal the unpadded run, and the reference's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from support import compare, fixtures, reference
from support.lab import Lab

NAMES = tuple(fixtures.RECIPES)
SIDES = ("left", "right")
LENGTHS = (3, 33, 20)  # of the rows; the second has no padding
LENGTH = max(LENGTHS)
PAD = 0
IGNORED = -100
ROWS = range(len(LENGTHS))


def mask_of(side: str) -> torch.Tensor:
    """attention_mask [batch pos]."""
    places = torch.arange(LENGTH)
    if side == "left":
        places = places.flip(0)
    return (places < torch.tensor(LENGTHS)[:, None]).long()


def padded(side: str) -> torch.Tensor:
    return fixtures.tokens(LENGTH, len(LENGTHS)).masked_fill(mask_of(side) == 0, PAD)


def unpadded(side: str, row: int) -> torch.Tensor:
    return padded(side)[row : row + 1, mask_of(side)[row].bool()]


@pytest.mark.parametrize("path", ["automatic", "open"])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", NAMES)
def test_valid_positions_are_those_of_the_unpadded_run(
    lab: Lab, name: str, side: str, path: str
) -> None:
    points, names = lab.points(name), lab.names(name)
    bridge, mask = lab.bridge(name, path=path), mask_of(side)
    logits = bridge(padded(side), attention_mask=mask)
    _, cache = bridge.run_with_cache(padded(side), names, attention_mask=mask)
    for row in ROWS:
        valid = mask[row].bool()
        alone, want = bridge.run_with_cache(unpadded(side, row), names)
        got = compare.valid_part(points, cache, row, valid)
        assert not compare.disagreements(points, got, want)
        gap = (logits[row, valid] - alone[0]).abs().max()
        assert gap <= compare.logits_gate(alone)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", NAMES)
def test_valid_positions_are_those_of_the_padded_reference(lab: Lab, name: str, side: str) -> None:
    points, mask = lab.points(name), mask_of(side)
    # The reference would count left padding among its positions.
    positions = reference.positions_from(mask)
    want = reference.capture(lab.reference(name), padded(side), mask, positions)
    _, cache = lab.bridge(name).run_with_cache(padded(side), lab.names(name), attention_mask=mask)
    for row in ROWS:
        valid = mask[row].bool()
        parts = [compare.valid_part(points, values, row, valid) for values in (cache, want)]
        assert not compare.disagreements(points, *parts)


@pytest.mark.parametrize("side", SIDES)
def test_what_stands_at_padding_does_not_matter(lab: Lab, side: str) -> None:
    bridge, mask = lab.bridge("e2b"), mask_of(side)
    other = torch.where(mask == 1, padded(side), fixtures.tokens(LENGTH, len(LENGTHS), seed=5))
    runs = [bridge(tokens, attention_mask=mask)[mask.bool()] for tokens in (padded(side), other)]
    assert torch.equal(*runs)
    losses = [
        bridge(tokens, attention_mask=mask, return_type="loss") for tokens in (padded(side), other)
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", NAMES)
def test_given_positions_are_those_of_the_reference(lab: Lab, name: str) -> None:
    points, tokens = lab.points(name), fixtures.tokens(20)
    positions = torch.stack([torch.arange(20) + 7, torch.arange(20) * 3])
    # With a mask, the reference does not take jumps for the starts of new texts.
    want = reference.capture(lab.reference(name), tokens, torch.ones(2, 20), positions)
    bridge = lab.bridge(name)
    logits, cache = bridge.run_with_cache(tokens, lab.names(name), position_ids=positions)
    assert not compare.disagreements(points, cache, want)
    assert not torch.equal(cache["rot_q", 0], bridge.run_with_cache(tokens)[1]["rot_q", 0])
    one_row = bridge(tokens, position_ids=positions[:1])
    assert (one_row[0] - logits[0]).abs().max() <= compare.logits_gate(logits)


def test_given_positions_go_before_those_of_the_mask(lab: Lab) -> None:
    bridge, mask = lab.bridge("mha"), mask_of("left")
    positions = torch.arange(LENGTH).expand(len(LENGTHS), LENGTH) + 2
    _, cache = bridge.run_with_cache(padded("left"), attention_mask=mask, position_ids=positions)
    want = reference.capture(lab.reference("mha"), padded("left"), mask, positions)
    valid = mask.bool()
    for layer in range(4):
        name = f"blocks.{layer}.attn.hook_rot_k"
        assert compare.relative_rms(cache[name][valid], want[name][valid]) < compare.RELATIVE_RMS


@pytest.mark.parametrize("side", SIDES)
def test_hooks_are_told_positions(lab: Lab, side: str) -> None:
    seen = {}

    def look(value: torch.Tensor, hook: object) -> None:
        seen[hook.name] = (hook.positions, hook.key_positions)

    mask = mask_of(side)
    names = ["hook_embed", "blocks.1.attn.hook_pattern", "blocks.4.attn.hook_shared_k"]
    lab.bridge("e2b").run_with_hooks(
        padded(side), [(name, look) for name in names], attention_mask=mask
    )
    want = torch.full((len(LENGTHS), LENGTH), -1)
    for row, length in enumerate(LENGTHS):
        want[row, mask[row].bool()] = torch.arange(length)
    assert list(seen) == names
    for positions in seen.values():
        assert torch.equal(positions[0], want)
        assert torch.equal(positions[1], want)


@pytest.mark.parametrize("side", SIDES)
def test_the_loss_is_the_mean_over_valid_pairs(lab: Lab, side: str) -> None:
    """A pair of the text, never one of padding and text; rows count by their pairs."""
    bridge, mask = lab.bridge("e2b"), mask_of(side)
    loss = bridge(padded(side), attention_mask=mask, return_type="loss")
    each = bridge(padded(side), attention_mask=mask, return_type="loss", loss_per_token=True)
    assert each.shape == (len(LENGTHS), LENGTH - 1)
    total, pairs = 0.0, 0
    for row in ROWS:
        tokens = unpadded(side, row)
        logits = lab.bridge("e2b")(tokens)[0]
        want = F.cross_entropy(logits[:-1], tokens[0, 1:], reduction="none")
        counted = (mask[row, :-1] & mask[row, 1:]).bool()
        torch.testing.assert_close(each[row, counted], want, rtol=1e-5, atol=1e-5)
        assert not each[row, ~counted].any()
        total, pairs = total + want.sum().item(), pairs + len(want)
    assert loss.item() == pytest.approx(total / pairs, rel=1e-6)
    assert pairs == sum(LENGTHS) - len(LENGTHS)


def test_the_loss_with_padding_is_that_of_the_reference(lab: Lab) -> None:
    """On the right the reference gives the mean over the same pairs, by labels of -100."""
    mask = mask_of("right")
    labels = padded("right").masked_fill(mask == 0, IGNORED)
    with torch.no_grad():
        want = lab.reference("e2b")(padded("right"), attention_mask=mask, labels=labels).loss
    got = lab.bridge("e2b")(padded("right"), attention_mask=mask, return_type="loss")
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0.0)


def test_labels_of_minus_100_are_left_out(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(12)
    labels = fixtures.tokens(12, seed=3)
    labels[0, 4:9] = IGNORED
    labels[1, 0] = IGNORED  # predicted by nothing
    logits = bridge(tokens)
    want = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
    each = bridge(tokens, labels=labels, return_type="loss", loss_per_token=True)
    torch.testing.assert_close(each, want)
    assert (each == 0).sum() == 5
    mean = bridge(tokens, labels=labels, return_type="loss")
    torch.testing.assert_close(mean, want.sum() / (2 * 11 - 5))
    with torch.no_grad():
        reference_loss = lab.reference("e2b")(tokens, labels=labels).loss
    torch.testing.assert_close(mean, reference_loss, rtol=1e-6, atol=0.0)


def test_both_gives_logits_and_loss_and_none_gives_nothing(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(9)
    logits, loss = bridge(tokens, return_type="both")
    assert torch.equal(logits, bridge(tokens))
    assert torch.equal(loss, bridge(tokens, return_type="loss"))
    assert bridge(tokens, return_type=None) is None


def test_an_edit_of_the_tokens_does_not_change_the_labels(lab: Lab) -> None:
    bridge, tokens, other = lab.bridge("mha"), fixtures.tokens(9), fixtures.tokens(9, seed=1)
    hooks = [("hook_tokens", lambda value, hook: other)]
    got = bridge.run_with_hooks(tokens, hooks, return_type="loss")
    torch.testing.assert_close(got, bridge(other, labels=tokens, return_type="loss"))


@pytest.mark.parametrize("side", SIDES)
def test_padding_ids_without_a_mask_are_padding(lab: Lab, side: str) -> None:
    bridge, mask = lab.bridge("e2b"), mask_of(side)
    with_mask = bridge(padded(side), attention_mask=mask)
    assert torch.equal(bridge(padded(side)), with_mask)
    everything = bridge(padded(side), attention_mask=torch.ones_like(mask))
    row = LENGTHS.index(min(LENGTHS))
    valid = mask[row].bool()
    far = (everything[row, valid] - with_mask[row, valid]).abs().max()
    assert (far > 1e-3) == (side == "left")  # what is behind a token does not reach it
