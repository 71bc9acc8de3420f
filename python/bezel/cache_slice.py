"""Positions, rows and neurons chosen as in TransformerLens: an index drops its axis."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch

from bezel.errors import ArgumentError

SliceInput: TypeAlias = int | slice | tuple[int | None, ...] | list[int] | torch.Tensor | Any | None


class Cut:
    """What a pos_slice, batch_slice or neuron_slice of a cache's methods chooses.

    None keeps everything; an index drops the axis (a cache that was *recorded* with pos_slice=3
    keeps it); (stop,), (start, stop), (start, stop, step) or a slice cut it; a list, an integer
    tensor or a mask takes the named places.
    """

    def __init__(self, given: SliceInput, name: str = "pos_slice") -> None:
        self._name = name
        self._given = given
        self.chosen: int | slice | torch.Tensor = self._read(given)

    @property
    def drops_axis(self) -> bool:
        """True for an index."""
        return isinstance(self.chosen, int)

    @property
    def keeps_all(self) -> bool:
        """True for None."""
        return self._given is None

    def apply(self, value: torch.Tensor, dim: int) -> torch.Tensor:
        """The chosen part of the axis dim. Raises ArgumentError when nothing would be left."""
        if self.keeps_all:
            return value
        chosen = self.chosen
        if isinstance(chosen, torch.Tensor):
            chosen = chosen.to(value.device)
        index: list[Any] = [slice(None)] * value.ndim
        index[dim] = chosen
        try:
            part = value[tuple(index)]
        except (IndexError, ValueError) as error:
            raise self._refusal(f"does not fit an axis of {value.shape[dim]}: {error}") from None
        if not isinstance(chosen, int) and part.shape[dim] == 0:
            raise self._refusal(f"chooses nothing of an axis of {value.shape[dim]}")
        return part

    def _read(self, given: SliceInput) -> int | slice | torch.Tensor:
        if given is None:
            return slice(None)
        if isinstance(given, np.integer) or (
            isinstance(given, torch.Tensor | np.ndarray)
            and given.ndim == 0
            and not torch.as_tensor(given).is_floating_point()
        ):
            given = int(given)
        if isinstance(given, int) and not isinstance(given, bool):
            return given
        if isinstance(given, slice):
            return given
        if isinstance(given, tuple) and 1 <= len(given) <= 3:
            return slice(*given)
        if isinstance(given, list | torch.Tensor | np.ndarray):
            places = torch.as_tensor(given)
            if places.ndim == 1 and places.dtype in (torch.int64, torch.int32, torch.bool):
                return places
        raise self._refusal(
            "is none of: an index, a slice, (stop,), (start, stop[, step]), a list of indices, a "
            "1-D integer or bool tensor"
        )

    def _refusal(self, why: str) -> ArgumentError:
        return ArgumentError(f"{self._name}={self._given!r} {why}")
