"""One name of a store, as an array of rows."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from bezel import _C
from bezel.errors import ArgumentError

if TYPE_CHECKING:
    from bezel.store import ActivationStore

LABELS = ("token_id", "document", "position", "type")
Out: TypeAlias = Literal["numpy", "torch"]
Index: TypeAlias = "int | slice | npt.NDArray[Any] | torch.Tensor | list[int]"
DTYPES = {
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
    "uint8": torch.uint8,
    "int32": torch.int32,
    "int64": torch.int64,
}


class StoredRows:
    """Values of one name: `[1000:2000]`, `[[7, 3, 3]]`, `[mask]`; nothing is read before.

    Attributes:
        name: Of the value, or of a label.
        axes: Axis words behind the rows'.
        shape: (rows, …).
        dtype: As it is stored.

    Example:
        >>> z = bezel.ActivationStore("acts")["blocks.3.hook_resid_post"]
        >>> z
        blocks.3.hook_resid_post [row=13 d_model=96] float32
        >>> z[-1].shape, z[[0, 5]].shape, z.document(1).shape
        ((96,), (2, 96), (10, 96))
    """

    def __init__(  # noqa: PLR0913  what the manifest says of it
        self,
        store: ActivationStore,
        reader: _C.StoreReader,
        name: str,
        axes: tuple[str, ...],
        shape: tuple[int, ...],
        dtype: str,
        out: Out,
    ) -> None:
        self._store, self._reader, self._out = store, reader, out
        self.name, self.axes = name, axes
        self.shape = (reader.total_rows, *shape)
        self.dtype = DTYPES[dtype]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Axes, the rows' among them."""
        return len(self.shape)

    def __getitem__(self, index: Index | tuple[Any, ...]) -> Any:
        """Rows as the store's `out` says; more indices go to what was read."""
        rows, rest = (index[0], index[1:]) if isinstance(index, tuple) else (index, ())
        found = self.to_torch(rows) if self._out == "torch" else self.to_numpy(rows)
        if not rest:
            return found
        return found[rest] if isinstance(rows, int) else found[(slice(None), *rest)]

    def to_torch(self, index: Index = slice(None)) -> torch.Tensor:
        """Rows in memory of their own; bfloat16 as it is stored.

        Args:
            index: One row, which drops its axis; a slice; row numbers in any order; or a mask.

        Raises:
            StoreError: Rows that are not sealed, or not what their checksum says.
        """
        if isinstance(index, slice):
            rows = range(*index.indices(len(self)))
            if rows.step == 1 or len(rows) < 2:
                return self._reader.read(self.name, rows.start, len(rows))
            return self._reader.read_rows(self.name, torch.tensor(rows))
        if not isinstance(index, np.ndarray | torch.Tensor | list | tuple):
            return self._reader.read(self.name, self._one(index), 1)[0]
        return self._reader.read_rows(self.name, self._several(index))

    def to_numpy(self, index: Index = slice(None)) -> npt.NDArray[Any]:
        """As `to_torch`. bfloat16 is ml_dtypes' where that is installed, else float32."""
        found = self.to_torch(index)
        if found.dtype != torch.bfloat16:
            return found.numpy()
        try:
            import ml_dtypes
        except ImportError:
            return found.float().numpy()
        return found.view(torch.int16).numpy().view(ml_dtypes.bfloat16)

    def document(self, number: int) -> Any:
        """The rows of a document."""
        return self[self._store.where(document=number)]

    def where(self, **labels: Any) -> Any:
        """The rows with these labels, see `ActivationStore.where`."""
        return self[self._store.where(**labels)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        found = self.to_numpy()
        return found if dtype is None else found.astype(dtype)

    def _one(self, row: Any) -> int:
        try:
            number = operator.index(row)
        except TypeError:
            raise ArgumentError(
                f"the row is {row!r}; wanted a number, a slice, numbers or a mask"
            ) from None
        if not -len(self) <= number < len(self):
            raise IndexError(f"row {number} of {len(self)} rows")
        return number % len(self)

    def _several(self, index: Any) -> torch.Tensor:
        rows = torch.as_tensor(index)
        if rows.numel() == 0:
            rows = rows.long()
        if rows.ndim != 1 or rows.is_floating_point():
            raise ArgumentError(
                f"the rows are {rows.dtype} {list(rows.shape)}; wanted whole numbers [n], or a "
                f"mask [{len(self)}]"
            )
        if rows.dtype == torch.bool:
            if len(rows) != len(self):
                raise IndexError(f"a mask of {len(rows)} for {len(self)} rows")
            return rows.nonzero()[:, 0]
        if rows.numel() and (int(rows.min()) < -len(self) or int(rows.max()) >= len(self)):
            raise IndexError(f"rows {int(rows.min())} to {int(rows.max())} of {len(self)} rows")
        return rows.long() % max(len(self), 1)

    def __repr__(self) -> str:
        sizes = zip(("row", *self.axes), self.shape, strict=True)
        words = " ".join(f"{axis}={size}" for axis, size in sizes)
        return f"{self.name} [{words}] {str(self.dtype).removeprefix('torch.')}"
