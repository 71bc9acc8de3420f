"""Every name is causal, in every layer where it exists, and an edit that changes nothing is free.

Each name of each fixture is requested alone: whole, on the automatic path; at one position, on
the open path; and with an edit that changes nothing.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bezel.names import HookPoint
from support import fixtures
from support.exact import text_model_of
from support.hook_table import hook_points_of, of_text
from support.lab import Lab

NAMES = tuple(fixtures.RECIPES)
LENGTH, BATCH, PLACE = 11, 2, 6
TOKENS = fixtures.tokens(LENGTH, BATCH)
SIZES = {"batch": BATCH, "pos": LENGTH, "q_pos": LENGTH, "k_pos": LENGTH}
VISIBLE = 1e-3  # far above rounding
ROUNDING = 1e-5  # experts get other batches of rows, whose products round differently
IDENTITIES = {
    "the value": lambda value, hook: value,
    "a copy": lambda value, hook: value.clone(),
    "nothing": lambda value, hook: None,
}


def other_value(value: torch.Tensor, name: str) -> torch.Tensor:
    """A value of the same kind: other ids, other experts, or this one with noise."""
    if name == "hook_tokens":
        return fixtures.tokens(LENGTH, BATCH, seed=9)
    if name.endswith("expert_indices"):
        return (value + 1) % 8
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name)))
    if name.endswith("scale"):
        # Of both signs: q, k and v are normed again, so that a positive factor in ln1 cancels.
        return value * (1 + 2 * noise)
    return value + 0.5 * noise


class RandomEdit:
    """Another value, everywhere or at one position; remembers what it was called with."""

    def __init__(self, dim: int | None = None) -> None:
        self.dim = dim
        self.calls: list[tuple[str, tuple[int, ...]]] = []

    def __call__(self, value: torch.Tensor, hook: Any) -> torch.Tensor | None:
        self.calls.append((hook.name, tuple(value.shape)))
        other = other_value(value, hook.name)
        if self.dim is None:
            return other
        value.narrow(self.dim, PLACE, 1).copy_(other.narrow(self.dim, PLACE, 1))
        return None


def calls_of(point: HookPoint) -> list[tuple[str, tuple[int, ...]]]:
    """One call, with the declared shape."""
    pairs = zip(point.axes, point.shape, strict=True)
    return [(point.name, tuple(SIZES[axis] if size is None else size for axis, size in pairs))]


@pytest.mark.parametrize("name", NAMES)
def test_the_names_and_axes_are_those_of_the_second_table(lab: Lab, name: str) -> None:
    want = hook_points_of(text_model_of(lab.reference(name)).config)
    points = of_text(lab.bridge(name).hook_points())
    got = {(p.name, p.axes, p.layer, p.access == "on_demand") for p in points}
    assert got == {(p.name, p.axes, p.layer, p.on_demand) for p in want}
    assert len(points) == len(want)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_fires_once_and_changes_the_logits(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name)
    plain = bridge(TOKENS)
    for point in of_text(bridge.hook_points()):
        edit = RandomEdit()
        edited = bridge.run_with_hooks(TOKENS, [(point.name, edit)])
        assert edit.calls == calls_of(point)
        assert torch.isfinite(edited).all(), point.name
        assert (edited - plain).abs().max() > VISIBLE, point.name


@pytest.mark.parametrize("name", NAMES)
def test_each_name_at_a_position_changes_the_future_and_not_the_past(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name, path="open")
    plain = bridge(TOKENS)
    for point in of_text(bridge.hook_points()):
        edit = RandomEdit(next(i for i, axis in enumerate(point.axes) if axis.endswith("pos")))
        edited = bridge.run_with_hooks(TOKENS, [(point.name, edit)])
        assert edit.calls == calls_of(point)
        gap = (edited - plain).abs().amax(dim=(0, 2))
        assert gap[:PLACE].max() < ROUNDING, point.name
        assert gap[PLACE:].max() > VISIBLE, point.name


@pytest.mark.parametrize("name", NAMES)
def test_an_identity_edit_at_each_name_changes_no_bit_on_the_open_path(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name, path="open")
    plain = bridge(TOKENS)
    for other in lab.names(name):
        edited = bridge.run_with_hooks(TOKENS, [(other, IDENTITIES["the value"])])
        assert torch.equal(edited, plain), other


@pytest.mark.parametrize("identity", IDENTITIES)
@pytest.mark.parametrize("name", NAMES)
def test_identity_edits_at_all_names_at_once_change_no_bit_on_the_open_path(
    lab: Lab, name: str, identity: str
) -> None:
    bridge = lab.bridge(name, path="open")
    # An edit of ln1 and one of a per-head copy, which gets its own norm, exclude each other.
    names = [other for other in lab.names(name) if ".ln1." not in other]
    hooks = [(other, IDENTITIES[identity]) for other in names]
    assert torch.equal(bridge.run_with_hooks(TOKENS, hooks), bridge(TOKENS))


@pytest.mark.parametrize("name", NAMES)
def test_recording_changes_no_bit_on_the_open_path(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name, path="open")
    logits, _ = bridge.run_with_cache(TOKENS, lab.names(name))
    assert torch.equal(logits, bridge(TOKENS))
