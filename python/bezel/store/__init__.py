"""Reading what `bezel.dump` wrote: `bezel.ActivationStore`."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from bezel import _C
from bezel.errors import ArgumentError, StoreError, UnknownHookError
from bezel.moments import Moments
from bezel.store.iterating import BatchState, RowBatches
from bezel.store.rows import LABELS, Out, StoredRows
from bezel.token_types import WORDS

if TYPE_CHECKING:
    import xarray

__all__ = ["ActivationStore", "BatchState", "RowBatches", "StoredRows"]


class ActivationStore(Mapping[str, StoredRows]):
    """A store on disk, as a mapping of names to arrays of rows.

    Opening reads the manifest, the journals and where each dataset begins, once. After that a read
    is one system call for each run of rows: no HDF5 and no lock, safe in threads and in forked
    workers. Only rows that were sealed when the store was opened are seen.

    Attributes:
        path: The folder.
        id: SHA-256 of the manifest: equal stores have equal ids.
        manifest: What stands in MANIFEST.json.

    Args:
        path: The folder.
        out: "numpy" or "torch", what a read gives. bfloat16 is ml_dtypes' where that is installed,
            else float32, in numpy.
        checksum: "first" compares each block of values with its checksum when it is first read,
            "always" at each read, "never" not at all.
        trust: False for a store whose maker may mean harm: then HDF5 parses nothing of it.

    Raises:
        StoreError: For what is no store, or is damaged; it names the file.

    Example:
        >>> store = bezel.ActivationStore("acts")
        >>> store["blocks.3.hook_resid_post"][1:3].shape  # [row d_model]
        (2, 96)
        >>> store.token_id[:3].tolist()
        [2, 37, 20]
    """

    def __init__(
        self,
        path: str | Path,
        *,
        out: Out = "numpy",
        checksum: Literal["first", "always", "never"] = "first",
        trust: bool = True,
    ) -> None:
        from bezel.dump import want_store

        want_store()
        if out not in ("numpy", "torch"):
            raise ArgumentError(f'out is {out!r}; wanted "numpy" or "torch"')
        self.path = Path(path)
        self._options: dict[str, Any] = {"out": out, "checksum": checksum, "trust": trust}
        self._reader = _C.StoreReader(self.path, checksum=checksum, trust=trust)
        self.id: str = self._reader.id
        self.manifest: dict[str, Any] = json.loads(self._reader.manifest)
        self._columns = {
            name: StoredRows(self, self._reader, name, tuple(axes), tuple(shape), dtype, out)
            for name, axes, shape, dtype, _, per_shard in self._reader.datasets
            if not per_shard
        }
        self._values = [name for name in self._columns if name not in LABELS]
        self._labels: dict[str, npt.NDArray[Any]] = {}

    @property
    def n_rows(self) -> int:
        """Rows that the store is to have."""
        return self._reader.total_rows

    @property
    def recorded(self) -> list[tuple[int, int]]:
        """Runs of rows that are sealed: (first, how many)."""
        return self._reader.recorded

    @property
    def is_complete(self) -> bool:
        """Whether all rows are sealed."""
        return sum(n for _, n in self.recorded) == self.n_rows

    @property
    def token_id(self) -> npt.NDArray[Any]:
        """int32 [row]."""
        return self.label("token_id")

    @property
    def document(self) -> npt.NDArray[Any]:
        """int64 [row]."""
        return self.label("document")

    @property
    def position(self) -> npt.NDArray[Any]:
        """int32 [row]: the place in the document."""
        return self.label("position")

    def label(self, name: str) -> npt.NDArray[Any]:
        """A label of every row, read once: "token_id", "document", "position", "type".

        Raises:
            ArgumentError: The store has no such label.
            StoreError: The store is not complete.

        Example:
            >>> bezel.ActivationStore("acts").label("position")[:4].tolist()
            [0, 1, 2, 0]
        """
        if name not in self._columns or name not in LABELS:
            raise ArgumentError(
                f'{self.path} has no label "{name}"; it has '
                f"{', '.join(label for label in LABELS if label in self._columns)}"
            )
        if name not in self._labels:
            found = self._reader.read(name, 0, self.n_rows).numpy()
            found.flags.writeable = False
            self._labels[name] = found
        return self._labels[name]

    def where(self, **labels: int | str | Sequence[int | str]) -> npt.NDArray[np.int64]:
        """The rows whose labels have these values, ascending.

        Args:
            **labels: token_id, document, position or type: a number, or several of which one fits;
                types in numbers or in words, "text", "image", "video", "audio".

        Example:
            >>> store = bezel.ActivationStore("acts")
            >>> store.where(token_id=2).tolist(), store.where(document=1, position=[1, 2]).tolist()
            ([0, 3], [4, 5])
        """
        fits = np.ones(self.n_rows, dtype=np.bool_)
        for name, wanted in labels.items():
            fits &= np.isin(self.label(name), _numbers_of(name, wanted))
        return np.flatnonzero(fits)

    def moments(self, name: str) -> Moments:
        """Mean, variance and covariance over all sealed rows, as far as the dump kept them.

        Args:
            name: Of the value that `bezel.dump(…, reduce={name: "covariance"})` reduced.

        Raises:
            UnknownHookError: The store has none of that name.
            StoreError: No shard is sealed yet.

        Example:
            >>> reduce = {"blocks.3.hook_resid_post": "covariance"}
            >>> _ = bezel.dump(b, ["Emma knows"], "moments", reduce=reduce, verbose=False)
            >>> found = bezel.ActivationStore("moments").moments("blocks.3.hook_resid_post")
            >>> found.count, found.covariance.shape
            (3, torch.Size([96, 96]))
        """
        kinds = {n: per_shard for n, *_, per_shard in self._reader.datasets}
        if not kinds.get(f"{name}:mean"):
            reduced = [n.removesuffix(":mean") for n in kinds if n.endswith(":mean")]
            raise UnknownHookError(
                f'{self.path} has no moments of "{name}"; it has those of '
                f"{', '.join(reduced) or 'none'}"
            )

        def part(kind: str, shard: int) -> torch.Tensor:
            full = f"{name}:{kind}"
            if full in kinds:
                return self._reader.read_shard(full, shard)
            return torch.zeros(0, dtype=torch.float64)

        parts = [
            Moments(
                int(part("count", shard)),
                part("mean", shard),
                part("squares", shard),
                part("products", shard),
            )
            for shard in self._reader.shards
        ]
        if not parts:
            raise StoreError(f"{self.path}: no shard is sealed yet")
        return functools.reduce(Moments.merged, parts)

    def iter_batches(  # noqa: PLR0913  the settings of a pass
        self,
        names: str | Sequence[str],
        batch: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        buffer_rows: int | None = None,
        where: npt.NDArray[Any] | None = None,
        workers: int = 1,
        device: torch.device | str | None = None,
        drop_last: bool = False,
        start_state: BatchState | None = None,
    ) -> RowBatches:
        """Batches of rows, each row once: an iterator of dicts of tensors.

        Shuffled, runs of rows are taken in a random order over the whole store into a buffer, and
        the rows of a buffer in a random order: the same seed gives the same batches, whatever
        `workers` is.

        Args:
            names: Values and labels that a batch holds.
            batch: Rows of a batch.
            shuffle: False: in the order of the store.
            seed: Of the order.
            buffer_rows: Rows that are mixed at a time; two buffers are in memory. None: about
                256 MiB.
            where: Rows to take, as `where` finds them; None: all that are sealed.
            workers: Threads that read ahead; 0: none.
            device: Where the tensors go; None: the CPU.
            drop_last: Leave out a last batch that is not full.
            start_state: Of an earlier pass: begins behind the batches that it gave.

        Returns:
            An iterator; `.state` is where it stands.

        Raises:
            ArgumentError: For settings that cannot be; it names the argument.

        Example:
            >>> store = bezel.ActivationStore("acts")
            >>> batches = store.iter_batches(["blocks.3.hook_resid_post", "token_id"], batch=5)
            >>> [len(batch["token_id"]) for batch in batches]
            [5, 5, 3]
        """
        chosen = [names] if isinstance(names, str) else list(names)
        for name in chosen:
            self[name]  # raises for an unknown one
        return RowBatches(
            self._reader,
            chosen,
            batch,
            shuffle=shuffle,
            seed=seed,
            buffer_rows=buffer_rows,
            where=where,
            workers=workers,
            device=device,
            drop_last=drop_last,
            start_state=start_state,
        )

    def to_xarray(self, names: str | Sequence[str], rows: slice | None = None) -> xarray.Dataset:
        """Some values as an xarray Dataset, with the labels as coordinates of the rows.

        Args:
            names: Of values.
            rows: None: all.

        Raises:
            ArgumentError: Without xarray.

        Example:
            >>> dataset = bezel.ActivationStore("acts").to_xarray("blocks.3.hook_resid_post")
            >>> dataset["blocks.3.hook_resid_post"].sel(row=dataset.token_id == 37).shape
            (2, 96)
        """
        try:
            import xarray
        except ImportError:
            raise ArgumentError("to_xarray needs xarray: pip install 'bezel[xarray]'") from None
        cut = rows or slice(None)
        chosen = [names] if isinstance(names, str) else names
        labels = [label for label in LABELS if label in self._columns]
        return xarray.Dataset(
            {name: (("row", *self[name].axes), self[name].to_numpy(cut)) for name in chosen},
            coords={label: ("row", self.label(label)[cut]) for label in labels},
            attrs={"store": self.id},
        )

    def __getitem__(self, name: str) -> StoredRows:
        found = self._columns.get(name)
        if found is None:
            near = difflib.get_close_matches(name, self._values, n=3, cutoff=0)
            raise UnknownHookError(
                f'{self.path} has no "{name}"; the nearest of its {len(self)} names are '
                f"{', '.join(near) or 'none'}"
            )
        return found

    def __iter__(self) -> Iterator[str]:
        """Names of values, as the model computes them; labels are not among them."""
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __repr__(self) -> str:
        n_sealed = sum(n for _, n in self.recorded)
        lines = [f"{self.path}: {n_sealed:,} of {self.n_rows:,} rows"]
        return "\n".join([*lines, *(f"  {self[name]!r}" for name in self)])

    def __reduce__(self) -> Any:
        """Another process opens it anew."""
        return functools.partial(ActivationStore, self.path, **self._options), ()


def _numbers_of(label: str, wanted: Any) -> npt.NDArray[Any]:
    several = np.atleast_1d(np.asarray(wanted))
    if several.dtype.kind in "iu":
        return several
    if label == "type" and set(several.tolist()) <= set(WORDS):
        return np.array([WORDS.index(word) for word in several.tolist()])
    raise ArgumentError(
        f"{label} is {wanted!r}; wanted whole numbers, or types: {', '.join(WORDS)}"
    )
