"""What a bundle keeps of a value: all of it, or some positions and dims with a fingerprint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from bezel.errors import ArgumentError
from bezel.reference.padding import Masks, hidden_in, wanted_axes, without

# Of which a sample keeps some places; a value has one of them.
QUERY_AXES = (
    "pos", "q_pos", "patch", "q_patch", "soft", "mel_frame", "half_frame", "frame", "chunk",
)  # fmt: skip
_KEY_AXES = ("k_pos", "k_patch", "k_frame")
_WIDE = torch.float64
# Small, and in bfloat16 all that follows is compared only where the same experts are taken.
_NEVER_CUT = ("moe.hook_expert_indices", "moe.hook_router_probs")


class Sample(NamedTuple):
    """How much of a value to keep; of experts' choices and their probabilities all is kept.

    A single number of each is too few to judge bfloat16 by: its rounding is a matter of luck.

    Attributes:
        positions: So many along one of QUERY_AXES, the first and the last among them; never along
            `k_pos`, `k_patch` or `k_frame`.
        dims: So many along the last axis, where that is no axis of positions.
    """

    positions: int = 8
    dims: int = 16


@dataclass(frozen=True)
class Kept:
    """A value as a bundle holds it.

    Attributes:
        value: All of it, or the part.
        positions: Of a part: indices of positions kept along one of QUERY_AXES; None of a whole.
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


def keep_part(name: str, value: torch.Tensor, masks: Masks, sample: Sample) -> Kept:
    """The part of a whole value that a sample keeps; masks: where something is."""
    if name.endswith(_NEVER_CUT):
        return Kept(value)
    axes = wanted_axes(name)
    along = next(i for i, axis in enumerate(axes) if axis in (*QUERY_AXES, *_KEY_AXES))
    positions = spread(sample.positions, value.shape[along])
    part = value.index_select(along, positions) if axes[along] in QUERY_AXES else value
    dims = torch.arange(value.shape[-1])
    if axes[-1] not in (*QUERY_AXES, *_KEY_AXES):
        dims = spread(sample.dims, value.shape[-1])
        part = part.index_select(-1, dims)
    elif axes[-1] in QUERY_AXES:
        dims = positions
    if part.shape == value.shape:
        return Kept(value)
    seen = without(value, hidden_in(name, value, masks))
    return Kept(part.contiguous(), positions, dims, norm_of(seen), float(seen.sum(dtype=_WIDE)))


def norm_of(value: torch.Tensor) -> float:
    """The root of the sum of squares, summed in float64."""
    wide = value if value.is_floating_point() else value.to(_WIDE)
    return float(torch.linalg.vector_norm(wide, dtype=_WIDE))
