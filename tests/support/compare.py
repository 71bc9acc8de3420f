"""How two values are compared: relative root-mean-square error, and the valid part of a batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch

from support.hook_table import Point

Values = Mapping[str, torch.Tensor]
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
    got: Values,
    want: Values,
    gate: float = RELATIVE_RMS,
) -> list[str]:
    """One line for each name whose error is above the gate."""
    errors = ((point.name, error(point, got[point.name], want[point.name])) for point in points)
    return [f"{name}: error {gap:.2e}" for name, gap in errors if not gap <= gate]


def valid_part(
    points: Iterable[Point], values: Values, row: int, valid: torch.Tensor
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


def _comparable(point: Point, runs: list[Values]) -> list[torch.Tensor]:
    """The values of all runs where they mean the same: seen scores, equally chosen experts."""
    values = [run[point.name] for run in runs]
    if point.name.endswith("hook_attn_scores"):
        keep = ~is_masked(values[-1])
    elif "k" in point.axes:
        chosen = [run[f"blocks.{point.layer}.moe.hook_expert_indices"] for run in runs]
        keep = (torch.stack(chosen) == chosen[0]).all(dim=-1).all(dim=0)
    else:
        return values
    return [value[keep] for value in values]


def ratios(points: Iterable[Point], got: Values, peer: Values, oracle: Values) -> dict[str, float]:
    """got's error / the peer's, both against the oracle, by row of the table.

    Squared relative errors are summed over the layers of a row: single values are chaotic.
    """
    squares: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for point in points:
        ours, theirs, want = _comparable(point, [got, peer, oracle])
        if want.is_floating_point():
            row = point.name.split(".", 2)[-1] if point.layer is not None else point.name
            squares[row][0] += relative_rms(ours, want) ** 2
            squares[row][1] += relative_rms(theirs, want) ** 2
    return {
        row: (ours / theirs) ** 0.5 if theirs else (float("inf") if ours else 0.0)
        for row, (ours, theirs) in squares.items()
    }
