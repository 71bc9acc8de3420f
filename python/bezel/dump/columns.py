"""Which values a dump stores: names, shapes and dtypes, known before the first run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from bezel import _C
from bezel.cache_values import axes_of
from bezel.dump.chosen import Chosen
from bezel.errors import ArgumentError
from bezel.plan import Plan, PlannedValue
from bezel.store import rows
from bezel.token_types import WORDS

DTYPES = {kind: word for word, kind in rows.DTYPES.items()}
_FEATURE = "feature"  # the last axis of a value inside an SAE
# What a value's first axis tells: the axes of which the first that it has becomes its rows, and the
# tokens that have a row.
_ROWS = {
    "batch": (("pos", "q_pos", "k_pos"), WORDS),
    "soft": (("soft",), ("image", "video")),
    "image": (("patch", "q_patch"), ("image", "video")),
    "audio": (("frame", "q_frame", "half_frame", "mel_frame"), ("audio",)),
}
_OF_A_FRAME = {"half_frame": 2, "mel_frame": 4}  # two convolutions of stride 2


@dataclass(frozen=True)
class Column:
    """One name of a store.

    Attributes:
        name: Of the value.
        run_axes: Of a run's value.
        row_axis: The one that becomes, with the first, the axis of rows.
        axes: Behind the row's.
        shape: Their lengths.
        dtype: As it is stored.
    """

    name: str
    run_axes: tuple[str, ...]
    row_axis: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def types(self) -> tuple[str, ...]:
        """Of the tokens that have a row."""
        return _ROWS[self.run_axes[0]][1]

    def stored(self) -> _C.StoreValue:
        """As the manifest has it."""
        return _C.StoreValue(self.name, list(self.axes), list(self.shape), DTYPES[self.dtype])

    def rows(self, value: torch.Tensor, chosen: Chosen) -> torch.Tensor:
        """The rows [row …] of the chosen tokens in a run's value, on its device.

        Raises:
            ArgumentError: They have another shape than those of the first batch.
        """
        found = self._rows(value, chosen)
        if found.shape[1:] == self.shape:
            return found
        raise ArgumentError(
            f'"{self.name}" has rows {list(found.shape[1:])} in one batch and {list(self.shape)} '
            "in another; pad the media of all documents to one number of patches"
        )

    def _rows(self, value: torch.Tensor, chosen: Chosen) -> torch.Tensor:
        if self.row_axis == "soft":
            return value[chosen.soft]
        by_row = value.movedim(self.run_axes.index(self.row_axis), 1)
        if self.run_axes[0] == "image":
            return by_row.flatten(0, 1)[chosen.patches]
        if self.run_axes[0] == "audio":
            return self._frames(value, by_row)[chosen.clip, chosen.frame]
        return by_row.flatten(0, 1) if chosen.kept is None else by_row[chosen.kept]

    def _frames(self, value: torch.Tensor, by_row: torch.Tensor) -> torch.Tensor:
        """Entries of frames, whatever the axes that count them: [audio frame …]."""
        if self.row_axis == "q_frame":  # frames in chunks
            chunk, frame = self.run_axes.index("chunk"), self.run_axes.index("q_frame")
            return value.movedim((chunk, frame), (1, 2)).flatten(1, 2)
        n = _OF_A_FRAME.get(self.row_axis, 1)
        if n == 1:
            return by_row
        behind = (0, 0) * (by_row.dim() - 2) + (0, -by_row.shape[1] % n)
        padded = functional.pad(by_row, behind)
        return padded.reshape(len(padded), -1, n, *padded.shape[2:])


def columns_of(plan: Plan, dtype: torch.dtype | None, patches_of_soft: int) -> list[Column]:
    """One for each value of a plan.

    Args:
        plan: Of a batch.
        dtype: Of floating values; None leaves them.
        patches_of_soft: Patches of a soft token of the vision encoder.

    Raises:
        ArgumentError: For a value without an axis of tokens.
    """
    return [_column(value, dtype, patches_of_soft) for value in plan.values]


def has_keys(columns: list[Column]) -> bool:
    """Whether some value has an axis of keys, whose length all batches must share."""
    return any("k_pos" in column.axes for column in columns)


def _column(value: PlannedValue, dtype: torch.dtype | None, patches_of_soft: int) -> Column:
    axes = _axes(value)
    row_axis = next((axis for axis in _ROWS.get(axes[0], ((), ()))[0] if axis in axes), None)
    if row_axis is None:
        raise ArgumentError(
            f'"{value.name}" [{" ".join(axes)}] has no row for each token, so that a dump cannot '
            "hold it; leave it out, or save a cache (cache.save)"
        )
    sizes = dict(zip(axes, value.shape, strict=True))
    rest = {axis: n for axis, n in sizes.items() if axis not in (axes[0], row_axis, "chunk")}
    if axes[0] == "image":
        rest = {"patch": patches_of_soft} | rest
    if row_axis in _OF_A_FRAME:
        rest = {row_axis: _OF_A_FRAME[row_axis]} | rest
    stored = dtype if dtype and value.dtype.is_floating_point else value.dtype
    return Column(value.name, axes, row_axis, tuple(rest), tuple(rest.values()), stored)


def _axes(value: PlannedValue) -> tuple[str, ...]:
    """Inside an SAE those of its place, but for the last."""
    own = axes_of(value.name)
    if own is not None:
        return own
    place = axes_of(value.name.rpartition(".")[0]) or ()
    return (*place[: len(value.shape) - 1], _FEATURE)
