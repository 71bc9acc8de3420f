"""Which values a dump stores: names, shapes and dtypes, known before the first run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bezel import _C
from bezel.cache_values import axes_of
from bezel.errors import ArgumentError
from bezel.plan import Plan, PlannedValue
from bezel.store import rows

_ROW_AXES = ("pos", "q_pos", "k_pos")  # the first of them that a value has becomes its rows
_FEATURE = "feature"  # the last axis of a value inside an SAE
DTYPES = {kind: word for word, kind in rows.DTYPES.items()}


@dataclass(frozen=True)
class Column:
    """One name of a store.

    Attributes:
        name: Of the value.
        row_dim: The axis of the run's value that becomes, with the batch's, the axis of rows.
        axes: Behind the row's.
        shape: Their lengths.
        dtype: As it is stored.
    """

    name: str
    row_dim: int
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """Of disk."""
        numbers = torch.Size(self.shape).numel()
        return numbers * self.dtype.itemsize

    def stored(self) -> _C.StoreValue:
        """As the manifest has it."""
        return _C.StoreValue(self.name, list(self.axes), list(self.shape), DTYPES[self.dtype])

    def rows(self, value: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
        """The kept rows [row …] of a run's value, in the order of the batch, on its device.

        Args:
            value: [batch … pos …].
            kept: bool [batch pos], on the value's device; None: all.
        """
        by_row = value.movedim(self.row_dim, 1)
        return by_row.flatten(0, 1) if kept is None else by_row[kept]


def columns_of(plan: Plan, dtype: torch.dtype | None) -> list[Column]:
    """One for each value of a plan.

    Raises:
        ArgumentError: For a value without an axis of tokens.
    """
    return [_column(value, dtype) for value in plan.values]


def has_keys(columns: list[Column]) -> bool:
    """Whether some value has an axis of keys, whose length all batches must share."""
    return any("k_pos" in column.axes for column in columns)


def _column(value: PlannedValue, dtype: torch.dtype | None) -> Column:
    axes = axes_of(value.name) or ("batch", "pos", _FEATURE)[: len(value.shape)]
    row_dim = next((axes.index(axis) for axis in _ROW_AXES if axis in axes), None)
    if row_dim is None or axes[0] != "batch":
        raise ArgumentError(
            f'"{value.name}" [{" ".join(axes)}] has no row for each token, so that a dump cannot '
            "hold it; leave it out, or save a cache (cache.save)"
        )
    rest = [i for i in range(1, len(axes)) if i != row_dim]
    stored = dtype if dtype and value.dtype.is_floating_point else value.dtype
    return Column(
        value.name,
        row_dim,
        tuple(axes[i] for i in rest),
        tuple(value.shape[i] for i in rest),
        stored,
    )
