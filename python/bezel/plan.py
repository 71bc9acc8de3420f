"""What a run would keep, known before it runs."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from bezel import _C


class PlannedValue(NamedTuple):
    """A value that the cache would hold."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    n_bytes: int

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> PlannedValue:
        """One with memory of its own."""
        return cls(name, shape, dtype, math.prod(shape) * dtype.itemsize)

    @property
    def n_elements(self) -> int:
        """Numbers in the value."""
        return math.prod(self.shape)


class Plan:
    """The values that a run would keep, and their bytes. Prints as a table.

    Attributes:
        values: By name, in the order of a run; those inside SAEs behind the others.
        cache_bytes: Of all together; names of one tensor share its memory.

    Example:
        >>> plan = b.plan((1, 9), "blocks.*.hook_resid_post")
        >>> len(plan.values), plan.cache_bytes
        (10, 34560)
    """

    def __init__(self, core: _C.Plan) -> None:
        self.values = [
            PlannedValue(value.name, tuple(value.shape), value.dtype, value.n_bytes)
            for value in core.values
        ]
        self.cache_bytes: int = core.cache_bytes

    def __repr__(self) -> str:
        width = max((len(value.name) for value in self.values), default=0)
        lines = [
            f"{value.name:<{width}}  {value.n_bytes / 2**20:>10.2f} MiB  "
            f"{str(value.dtype).removeprefix('torch.'):<9} {list(value.shape)}"
            for value in self.values
        ]
        total = f"{len(self.values)} values, {self.cache_bytes / 2**20:.2f} MiB in all"
        return "\n".join([*lines, total])


def with_values(plan: Plan, others: Sequence[PlannedValue], alone: bool) -> Plan:
    """A plan with these values behind its own; alone: in their place."""
    made = copy.copy(plan)
    made.values = [*others] if alone else [*plan.values, *others]
    own_bytes = 0 if alone else plan.cache_bytes
    made.cache_bytes = own_bytes + sum(value.n_bytes for value in others)
    return made
