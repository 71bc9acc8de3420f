"""How two values are compared: relative root-mean-square error, at valid positions, by axes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from support.hook_table import Point

# The gate on every float32 value, unless the reference itself is less exact than a third of it.
RELATIVE_RMS = 1e-5
OWN_ERRORS = 3.0


def relative_rms(got: torch.Tensor, want: torch.Tensor) -> float:
    """|got - want| / |want| in float64; infinite when got is not finite or want is all zero."""
    got, want = got.double(), want.double()
    if not torch.isfinite(got).all():
        return float("inf")
    gap = torch.linalg.vector_norm(got - want)
    return 0.0 if gap == 0 else float(gap / torch.linalg.vector_norm(want))


def at_valid(
    value: torch.Tensor, axes: tuple[str, ...], valid: torch.Tensor | None
) -> torch.Tensor:
    """The value at valid positions, [n ...]; valid [batch pos] bool, None when all are."""
    if valid is None:
        return value
    if axes[:3] == ("batch", "head", "q_pos"):
        value = value.transpose(1, 2)
    return value[valid]


def is_masked(scores: torch.Tensor) -> torch.Tensor:
    """Where a score holds the lowest number of its dtype: no attention there."""
    return scores == torch.finfo(scores.dtype).min


def error(
    point: Point,
    got: torch.Tensor,
    want: torch.Tensor,
    valid: torch.Tensor | None = None,
) -> float:
    """Relative RMS error; infinite when shapes, integers or masked places differ."""
    if got.shape != want.shape:
        return float("inf")
    got, want = at_valid(got, point.axes, valid), at_valid(want, point.axes, valid)
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
    oracle: Mapping[str, torch.Tensor],
    valid: torch.Tensor | None = None,
) -> list[str]:
    """One line for each name whose error is above the gate; oracle is the float64 run."""
    lines = []
    for point in points:
        gap = error(point, got[point.name], want[point.name], valid)
        if gap <= RELATIVE_RMS:
            continue
        own = error(point, want[point.name], oracle[point.name], valid)
        if not gap <= OWN_ERRORS * own:
            lines.append(f"{point.name}: error {gap:.2e}, the reference's own {own:.2e}")
    return lines


def logits_gate(want: torch.Tensor) -> float:
    """The largest gap allowed between two float32 logits."""
    return 5e-5 * max(1.0, float(want.abs().max()))
