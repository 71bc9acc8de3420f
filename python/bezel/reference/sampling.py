"""What a bundle keeps of a value: all of it, or some positions and dims with a fingerprint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from bezel.cache_values import axes_of
from bezel.errors import ArgumentError

QUERY_AXES = ("pos", "q_pos")
POSITION_AXES = (*QUERY_AXES, "k_pos")
_WIDE = torch.float64
# Small, and in bfloat16 all that follows is compared only where the same experts are taken.
_NEVER_CUT = ("moe.hook_expert_indices", "moe.hook_router_probs")


class Sample(NamedTuple):
    """How much of a value to keep; of experts' choices and their probabilities all is kept.

    Attributes:
        positions: So many along `pos` or `q_pos`, the first and the last among them; never along
            `k_pos`.
        dims: So many along the last axis, where that is no axis of positions.
    """

    positions: int = 8
    dims: int = 16


@dataclass(frozen=True)
class Kept:
    """A value as a bundle holds it.

    Attributes:
        value: All of it, or the part.
        positions: Of a part: indices of positions kept along pos or q_pos; None of a whole.
        dims: Of a part: indices kept along the last axis; None of a whole.
        norm: Of a part: the root of the sum of squares of the whole, over valid positions and, of
            scores, where attention can go.
        sum: Likewise.
    """

    value: torch.Tensor
    positions: torch.Tensor | None = None
    dims: torch.Tensor | None = None
    norm: float = 0.0
    sum: float = 0.0

    @property
    def is_part(self) -> bool:
        """True where something was left out."""
        return self.dims is not None


def check_sample(sample: Sample) -> None:
    """Raises ArgumentError for a sample of nothing."""
    if sample.positions < 1 or sample.dims < 1:
        raise ArgumentError(f"{sample} keeps nothing; wanted at least 1 of each")


def spread(n: int, size: int) -> torch.Tensor:
    """N indices below size, evenly spread, first and last among them; all where n >= size."""
    if n >= size:
        return torch.arange(size)
    if n == 1:
        return torch.tensor([size - 1])
    return torch.tensor([i * (size - 1) // (n - 1) for i in range(n)])


def keep_part(name: str, value: torch.Tensor, valid: torch.Tensor, sample: Sample) -> Kept:
    """The part of a whole value that a sample keeps; valid [batch pos] bool."""
    if name.endswith(_NEVER_CUT):
        return Kept(value)
    part, axes = value, wanted_axes(name)
    positions = spread(sample.positions, valid.shape[1])
    dims = torch.arange(value.shape[-1])
    for dim, axis in enumerate(axes):
        if axis in QUERY_AXES:
            part = part.index_select(dim, positions)
    if axes[-1] not in POSITION_AXES:
        dims = spread(sample.dims, value.shape[-1])
        part = part.index_select(-1, dims)
    elif axes[-1] in QUERY_AXES:
        dims = positions
    if part.shape == value.shape:
        return Kept(value)
    seen = without(value, hidden_in(name, value, valid))
    return Kept(part.contiguous(), positions, dims, norm_of(seen), float(seen.sum(dtype=_WIDE)))


def norm_of(value: torch.Tensor) -> float:
    """The root of the sum of squares, summed in float64."""
    wide = value if value.is_floating_point() else value.to(_WIDE)
    return float(torch.linalg.vector_norm(wide, dtype=_WIDE))


def wanted_axes(name: str) -> tuple[str, ...]:
    """The axis words of a name of the table."""
    axes = axes_of(name)
    if axes is None:
        raise AssertionError(f"{name} is not in the table")
    return axes


def hidden_in(name: str, value: torch.Tensor, valid: torch.Tensor) -> torch.Tensor | None:
    """True at padding and, of scores, where no attention can go; None where nothing is hidden."""
    hidden = None
    if not valid.all():
        hidden = torch.zeros(value.shape, dtype=torch.bool)
        for dim, axis in enumerate(wanted_axes(name)):
            if axis in POSITION_AXES:
                shape = [1] * value.ndim
                shape[0], shape[dim] = valid.shape
                hidden |= ~valid.reshape(shape)
    if name.endswith("attn.hook_attn_scores"):
        lowest = value == torch.finfo(value.dtype).min
        hidden = lowest if hidden is None else hidden | lowest
    return hidden


def without(value: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor:
    """The value with zeros where it is hidden."""
    return value if hidden is None else value.masked_fill(hidden, 0)
