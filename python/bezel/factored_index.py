"""The index of a product of two factors, as the indices of the factors."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch

from bezel.errors import ArgumentError

_ALL = slice(None)


class FactorIndex:
    """An index into [... ldim rdim], taken apart into leading axes, rows and columns."""

    def __init__(self, index: Any, shape: Sequence[int]) -> None:
        items = _without_ellipsis(index if isinstance(index, tuple) else (index,), len(shape))
        n_leading = len(shape) - 2
        n_items, n_axes = 0, 0
        while n_items < len(items) and (n_axes < n_leading or items[n_items] is None):
            n_axes += _n_axes(items[n_items])
            n_items += 1
        self._leading = items[:n_items]
        rest = items[n_items:]
        if n_axes > n_leading or any(item is None for item in rest):
            _refuse(index, "new axes and masks may stand before the rows alone")
        if len(rest) > 2:
            raise IndexError(f"{index!r} has too many indices for a matrix {list(shape)}")
        self._rows, self._columns = (
            _as_range(item, size)
            for item, size in zip((*rest, _ALL, _ALL), shape[-2:], strict=False)
        )
        lists = [not isinstance(item, slice) for item in (self._rows, self._columns)]
        if all(lists) or (any(lists) and any(map(_is_list, self._leading))):
            _refuse(index, "torch would pair these lists")

    def of_rows(self, factor: torch.Tensor) -> torch.Tensor:
        """The factor's part [... rows mdim] of A [... ldim mdim]."""
        return factor[self._leading][..., self._rows, :]

    def of_columns(self, factor: torch.Tensor) -> torch.Tensor:
        """The factor's part [... mdim columns] of B [... mdim rdim]."""
        return factor[self._leading][..., self._columns]


def _without_ellipsis(items: tuple[Any, ...], ndim: int) -> tuple[Any, ...]:
    at = [i for i, item in enumerate(items) if item is ...]
    if not at:
        return items
    missing = ndim - sum(_n_axes(item) for item in items if item is not ...)
    return (*items[: at[0]], *([_ALL] * missing), *items[at[0] + 1 :])


def _n_axes(item: Any) -> int:
    """Axes that an item of an index uses up."""
    if item is None:
        return 0
    if isinstance(item, torch.Tensor) and item.dtype == torch.bool:
        return item.ndim
    return 1


def _is_list(item: Any) -> bool:
    return isinstance(item, Sequence) or (isinstance(item, torch.Tensor) and item.ndim > 0)


def _as_range(item: Any, size: int) -> Any:
    """A slice or a list [n] of rows or columns; a single one keeps its axis."""
    if isinstance(item, slice):
        return item
    if _is_list(item):
        chosen = torch.as_tensor(item)
        if chosen.ndim != 1:
            _refuse(item, "rows and columns are chosen by a list of one axis")
        return chosen
    if isinstance(item, bool):
        _refuse(item, "a bool is no row")
    at = operator.index(item)
    if not -size <= at < size:
        raise IndexError(f"index {at} of {size} rows or columns")
    return slice(at, at + 1 or None)


def _refuse(index: Any, reason: str) -> None:
    raise ArgumentError(f"[{index!r}] of a FactoredMatrix: {reason}; index the product: .AB[…]")
