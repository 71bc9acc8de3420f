"""What a bundle keeps of a value: all of it, or some positions and dims with a fingerprint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from bezel.cache_values import axes_of
from bezel.errors import ArgumentError

QUERY_AXES = ("pos", "q_pos")
POSITION_AXES = (*QUERY_AXES, "k_pos")


class Sample(NamedTuple):
    """How much of a value to keep.

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
    seen = meaningful(name, value, valid).double()
    norm = float(torch.linalg.vector_norm(seen))
    return Kept(part.contiguous(), positions, dims, norm, float(seen.sum()))


def wanted_axes(name: str) -> tuple[str, ...]:
    """The axis words of a name of the table."""
    axes = axes_of(name)
    if axes is None:
        raise AssertionError(f"{name} is not in the table")
    return axes


def meaningful(name: str, value: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The entries, flat, at valid positions and, of scores, where attention can go."""
    return value[mask_of(name, value, valid)]


def mask_of(name: str, value: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Where `meaningful` looks: bool, of the value's shape."""
    mask = torch.ones(value.shape, dtype=torch.bool)
    for dim, axis in enumerate(wanted_axes(name)):
        if axis in POSITION_AXES:
            shape = [1] * value.ndim
            shape[0], shape[dim] = valid.shape
            mask &= valid.reshape(shape)
    if name.endswith("attn.hook_attn_scores"):
        mask &= value != torch.finfo(value.dtype).min
    return mask
