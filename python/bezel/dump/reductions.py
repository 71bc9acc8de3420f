"""What a dump keeps instead of values, or beside them, made before they leave the device.

Of each row a norm or its largest elements; of all rows of a shard count, mean, and the sums that
variances and covariances come from, which whoever reads them merges (Chan, Golub and LeVeque 1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from bezel import _C
from bezel.dump.columns import DTYPES, Column
from bezel.errors import ArgumentError
from bezel.moments import Moments, moments_of

Reduce: TypeAlias = "Mapping[str, str | Sequence[str]]"
NORM, TOP, MEAN, VARIANCE, COVARIANCE = "norm", "top", "mean", "variance", "covariance"
_WANTED = f'"{NORM}", "{TOP}:8" (or another number), "{MEAN}", "{VARIANCE}" or "{COVARIANCE}"'


@dataclass(frozen=True)
class Norm:
    """The Euclidean norm of each row, along the last axis: "<name>:norm"."""

    of: Column

    def stored(self) -> list[_C.StoreValue]:
        """As the manifest has it."""
        shape = list(self.of.shape[:-1])
        return [_C.StoreValue(self._name, list(self.of.axes[:-1]), shape, DTYPES[self._dtype])]

    def rows(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of rows [row …]."""
        return {self._name: torch.linalg.vector_norm(values, dim=-1, dtype=self._dtype)}

    @property
    def _name(self) -> str:
        return f"{self.of.name}:norm"

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float64 if self.of.dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class Top:
    """The k largest elements of each row along the last axis: "<name>:top", "<name>:top_index"."""

    of: Column
    k: int

    def stored(self) -> list[_C.StoreValue]:
        """As the manifest has them."""
        axes, shape = [*self.of.axes[:-1], "rank"], [*self.of.shape[:-1], self.k]
        return [
            _C.StoreValue(f"{self.of.name}:top", axes, shape, DTYPES[self.of.dtype]),
            _C.StoreValue(f"{self.of.name}:top_index", axes, shape, "int32"),
        ]

    def rows(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of rows [row …]; the largest first."""
        top = values.topk(self.k, dim=-1)
        return {f"{self.of.name}:top": top.values, f"{self.of.name}:top_index": top.indices.int()}


@dataclass(frozen=True)
class Statistics:
    """Count, mean, and sums of squares or of products, of all rows of a shard."""

    of: Column
    has_squares: bool
    has_products: bool

    def stored(self) -> list[_C.StoreValue]:
        """As the manifest has them."""
        axes, shape = list(self.of.axes), list(self.of.shape)
        kinds = [("count", [], [], "int64"), ("mean", axes, shape, "float64")]
        if self.has_products:
            last = axes[-1]
            kinds.append(("products", [*axes, f"{last}_other"], [*shape, shape[-1]], "float64"))
        elif self.has_squares:
            kinds.append(("squares", axes, shape, "float64"))
        return [
            _C.StoreValue(f"{self.of.name}:{kind}", axes, shape, dtype, per_shard=True)
            for kind, axes, shape, dtype in kinds
        ]

    def add(self, so_far: Moments | None, values: torch.Tensor) -> Moments:
        """Those of rows that came before, and of these [row …]."""
        found = moments_of(values, self.has_squares, self.has_products)
        return found if so_far is None else so_far.merged(found)

    def entries(self, moments: Moments) -> dict[str, torch.Tensor]:
        """What a shard keeps: [1, …]."""
        parts = {"count": torch.tensor(moments.count), "mean": moments.mean}
        if self.has_products:
            parts["products"] = moments.products
        elif self.has_squares:
            parts["squares"] = moments.squares
        return {f"{self.of.name}:{kind}": part[None].cpu() for kind, part in parts.items()}


@dataclass(frozen=True)
class Reductions:
    """Of one dump: by rows, and by shards."""

    by_row: list[Norm | Top]
    by_shard: list[Statistics]

    @property
    def columns(self) -> list[Column]:
        """The values that they are of."""
        return [one.of for one in (*self.by_row, *self.by_shard)]

    def stored(self) -> list[_C.StoreValue]:
        """As the manifest has them."""
        return [value for one in (*self.by_row, *self.by_shard) for value in one.stored()]


def reductions_of(columns: Mapping[str, list[Column]], reduce: Reduce) -> Reductions:
    """One for each value and kind.

    Args:
        columns: Of each key of `reduce`: the values that it names.
        reduce: Kinds by name or glob.

    Raises:
        ArgumentError: For other kinds, or values that have none.
    """
    found = Reductions([], [])
    for key, given in reduce.items():
        kinds = [given] if isinstance(given, str) else list(given)
        for column in columns[key]:
            _add(found, column, kinds)
    return found


def _add(found: Reductions, column: Column, kinds: list[str]) -> None:
    statistics = {kind for kind in kinds if kind in (MEAN, VARIANCE, COVARIANCE)}
    for kind in kinds:
        word, _, number = kind.partition(":")
        if word == TOP and number.isdecimal():
            found.by_row.append(Top(_wanted(column, kind), _checked_k(column, int(number))))
        elif kind == NORM:
            found.by_row.append(Norm(_wanted(column, kind)))
        elif kind not in statistics:
            raise ArgumentError(f'reduce: "{column.name}" as {kind!r}; wanted {_WANTED}')
    if statistics:
        products = COVARIANCE in statistics
        of = _wanted(column, COVARIANCE) if products else _floating(column)
        found.by_shard.append(Statistics(of, VARIANCE in statistics or products, products))


def _checked_k(column: Column, k: int) -> int:
    if 1 <= k <= column.shape[-1]:
        return k
    raise ArgumentError(
        f'reduce: the {k} largest of "{column.name}", whose rows have {column.shape[-1]}'
    )


def _wanted(column: Column, kind: str) -> Column:
    if not column.shape:
        raise ArgumentError(f'reduce: "{column.name}" has one number a row, and so no {kind}')
    return _floating(column)


def _floating(column: Column) -> Column:
    if not column.dtype.is_floating_point:
        raise ArgumentError(f'reduce: "{column.name}" holds whole numbers; wanted a floating value')
    return column
