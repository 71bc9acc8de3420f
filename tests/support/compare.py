"""How two values are compared: relative root-mean-square error, and the valid part of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from support.hook_table import Point

# The gate on every float32 value.
RELATIVE_RMS = 1e-5
POSITION_AXES = ("pos", "q_pos", "k_pos")


def relative_rms(got: torch.Tensor, want: torch.Tensor) -> float:
    """|got - want| / |want| in float64; infinite when got is not finite or want is all zero."""
    got, want = got.double(), want.double()
    if not torch.isfinite(got).all():
        return float("inf")
    gap = torch.linalg.vector_norm(got - want)
    return 0.0 if gap == 0 else float(gap / torch.linalg.vector_norm(want))


def is_masked(scores: torch.Tensor) -> torch.Tensor:
    """Where a score holds the lowest number of its dtype: no attention there."""
    return scores == torch.finfo(scores.dtype).min


def error(point: Point, got: torch.Tensor, want: torch.Tensor) -> float:
    """Relative RMS error; infinite when shapes, integers or masked places differ."""
    if got.shape != want.shape:
        return float("inf")
    if not want.is_floating_point():
        return 0.0 if torch.equal(got, want) else float("inf")
    if point.name.endswith("attn.hook_attn_scores"):
        seen = ~is_masked(want)
        if not torch.equal(~is_masked(got), seen):
            return float("inf")
        got, want = got[seen], want[seen]
    return relative_rms(got, want)


def disagreements(
    points: Iterable[Point],
    got: Mapping[str, torch.Tensor],
    want: Mapping[str, torch.Tensor],
    gate: float = RELATIVE_RMS,
) -> list[str]:
    """One line for each name whose error is above the gate."""
    errors = ((point.name, error(point, got[point.name], want[point.name])) for point in points)
    return [f"{name}: error {gap:.2e}" for name, gap in errors if not gap <= gate]


def valid_part(
    points: Iterable[Point], values: Mapping[str, torch.Tensor], row: int, valid: torch.Tensor
) -> dict[str, torch.Tensor]:
    """One row of a batch, [1 …], at its valid positions alone; valid [pos] bool."""
    keep = valid.nonzero().flatten()
    part = {}
    for point in points:
        value = values[point.name][row : row + 1]
        for dim, axis in enumerate(point.axes):
            if axis in POSITION_AXES:
                value = value.index_select(dim, keep)
        part[point.name] = value
    return part


def logits_gate(want: torch.Tensor) -> float:
    """The largest gap allowed between two float32 logits."""
    return 5e-5 * max(1.0, float(want.abs().max()))
