"""Rows in batches: in order, or shuffled over the whole store, from any place in a pass on.

The order is arithmetic on row numbers. Rows come in runs (chunks) of neighbours, which are read at
the speed of the disk; a pass permutes all chunks, takes as many as fill a buffer, and permutes the
rows of the buffer. So a place in a pass is two numbers, and any batch can be found without those
before it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bezel import _C
from bezel.errors import ArgumentError

Integers = npt.NDArray[np.int64]
Rows = dict[str, torch.Tensor]
_CHUNK_BYTES = 1 << 20
_BUFFER_BYTES = 256 << 20
_CHUNKS_IN_BUFFER = 16  # at least: rows of a batch come from so many places


@dataclass(frozen=True)
class BatchState:
    """A place in a pass: what was given, and the order that it was given in.

    Attributes:
        n_given: Batches.
        order: What the order follows from; a pass of another order refuses the state.
    """

    n_given: int
    order: str


class Chosen:
    """The rows of a pass before it is shuffled: runs of neighbours, or those of a `where`."""

    def __init__(self, runs: Sequence[tuple[int, int]], where: npt.NDArray[Any] | None) -> None:
        """`runs`: (first, how many) of the sealed rows, ascending."""
        self._firsts = np.array([first for first, _ in runs], dtype=np.int64)
        self._ends = np.cumsum([n for _, n in runs], dtype=np.int64)
        self._where = None if where is None else self._checked(np.asarray(where), runs)
        sealed = int(self._ends[-1]) if len(runs) else 0
        self._n = sealed if self._where is None else len(self._where)

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, places: slice) -> Integers:
        """Row numbers at these places, as many as there are."""
        if self._where is not None:
            chosen: Integers = self._where[places]
            return chosen
        at = np.arange(places.start, min(places.stop, self._n), dtype=np.int64)
        run = np.searchsorted(self._ends, at, side="right")
        rows: Integers = at - np.concatenate([[0], self._ends])[run] + self._firsts[run]
        return rows

    @property
    def key(self) -> str:
        """What tells these rows from others."""
        if self._where is None:
            return f"all {self._n}"
        return f"{self._n} of hash {hashlib.sha256(self._where.tobytes()).hexdigest()[:16]}"

    def _checked(self, rows: npt.NDArray[Any], runs: Sequence[tuple[int, int]]) -> Integers:
        fits = rows.ndim == 1 and rows.dtype.kind in "iu"
        if fits and rows.size:
            run = np.searchsorted(self._firsts, rows, side="right") - 1
            lengths = np.array([n for _, n in runs], dtype=np.int64)
            fits = bool((run >= 0).all()) and bool((rows - self._firsts[run] < lengths[run]).all())
        if not fits:
            raise ArgumentError(
                f"where is {rows.dtype} {list(rows.shape)}; wanted numbers of sealed rows [n], "
                "as store.where gives them"
            )
        return rows.astype(np.int64)


class Order:
    """Which rows each batch has."""

    def __init__(
        self, rows: Chosen, batch: int, chunk: int, buffer: int, seed: int | None, drop_last: bool
    ) -> None:
        """`seed` None keeps the order of the rows."""
        self._rows, self._seed = rows, seed
        self._chunk = max(1, min(chunk, buffer // _CHUNKS_IN_BUFFER))
        self._per_buffer = max(1, buffer // self._chunk)  # chunks
        n_chunks = -(-len(rows) // self._chunk)
        self._chunks = np.arange(n_chunks, dtype=np.int64)
        if seed is not None:
            self._chunks = np.random.default_rng([seed, 0]).permutation(self._chunks)
        sizes = np.full(n_chunks, self._chunk, dtype=np.int64)
        if n_chunks:
            sizes[self._chunks == n_chunks - 1] = len(rows) - (n_chunks - 1) * self._chunk
        starts = np.arange(0, n_chunks, self._per_buffer)
        counts = np.add.reduceat(sizes, starts) if n_chunks else np.zeros(0, dtype=np.int64)
        self.ends: Integers = np.cumsum(counts)  # of buffers, in rows of the pass
        self.batch = batch
        self.n_batches = len(rows) // batch if drop_last else -(-len(rows) // batch)
        self.key = f"{batch} {chunk} {buffer} {seed} {rows.key} {drop_last}"

    def __len__(self) -> int:
        return len(self.ends)

    def buffer(self, i: int) -> Integers:
        """Row numbers, in the order of the pass."""
        chunks = self._chunks[i * self._per_buffer : (i + 1) * self._per_buffer]
        parts = [self._rows[chunk * self._chunk : (chunk + 1) * self._chunk] for chunk in chunks]
        rows = np.concatenate(parts)
        if self._seed is None:
            return rows
        return np.random.default_rng([self._seed, 1, i]).permutation(rows)

    def parts(self, number: int) -> Iterator[tuple[int, slice]]:
        """Where the rows of a batch are: buffers, and places in them."""
        begin = number * self.batch
        end = min(begin + self.batch, int(self.ends[-1]))
        while begin < end:
            i = int(np.searchsorted(self.ends, begin, side="right"))
            first = int(self.ends[i - 1]) if i else 0
            upto = min(end, int(self.ends[i]))
            yield i, slice(begin - first, upto - first)
            begin = upto


@dataclass(frozen=True)
class Buffer:
    """Rows as they lie on the disk, and in which order the pass gives them.

    Attributes:
        values: By name [row …].
        places: int64 [row], in the order of the pass; None: as they lie.
    """

    values: Rows
    places: torch.Tensor | None

    def copied(self, name: str, part: slice) -> torch.Tensor:
        """Some rows of the pass, in memory of their own."""
        values = self.values[name]
        if self.places is None:
            return values[part].clone()
        return values.index_select(0, self.places[part])


class RowBatches(Iterator[dict[str, torch.Tensor]]):
    """An iterator over the batches of one pass; `ActivationStore.iter_batches` makes it.

    Example:
        >>> store = bezel.ActivationStore("acts")
        >>> batches = store.iter_batches("token_id", batch=5)
        >>> first = next(batches)
        >>> again = store.iter_batches("token_id", batch=5, start_state=batches.state)
        >>> torch.equal(next(again)["token_id"], next(batches)["token_id"])
        True
    """

    def __init__(  # noqa: PLR0913  the settings of a pass
        self,
        reader: _C.StoreReader,
        names: Sequence[str],
        batch: int,
        *,
        shuffle: bool,
        seed: int,
        buffer_rows: int | None,
        where: npt.NDArray[Any] | None,
        workers: int,
        device: torch.device | str | None,
        drop_last: bool,
        start_state: BatchState | None,
    ) -> None:
        """As `ActivationStore.iter_batches` says."""
        if workers < 0:
            raise ArgumentError(f"workers is {workers}; wanted 0 or more")
        self._reader, self._names, self._device = reader, list(names), device
        wanted = seed if shuffle else None
        self._order = order_of(reader, names, batch, wanted, buffer_rows, where, drop_last)
        self._key = f"{reader.id} {list(names)} {self._order.key}"
        self._n_given = _n_given(start_state, self._key)
        self._pool = ThreadPoolExecutor(workers) if workers else None
        self._ahead: deque[tuple[int, Future[Buffer]]] = deque()
        self._n_ahead = max(1, workers)
        self._held: tuple[int, Buffer | None] = (-1, None)
        self._rooms: list[Rows] = []  # of buffers that were given whole

    @property
    def state(self) -> BatchState:
        """Where the pass stands: behind the batches given so far."""
        return BatchState(self._n_given, self._key)

    def __len__(self) -> int:
        """Batches of the whole pass."""
        return self._order.n_batches

    def __iter__(self) -> RowBatches:
        return self

    def __next__(self) -> dict[str, torch.Tensor]:
        if self._n_given >= self._order.n_batches:
            self.close()
            raise StopIteration
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in self._names}
        for i, part in self._order.parts(self._n_given):
            buffer = self._buffer(i)
            for name in self._names:
                parts[name].append(buffer.copied(name, part))
        self._n_given += 1
        return {name: self._joined(several) for name, several in parts.items()}

    def close(self) -> None:
        """Ends the threads that read ahead; the end of the pass does so, too."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._ahead.clear()

    def _joined(self, parts: list[torch.Tensor]) -> torch.Tensor:
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole if self._device is None else whole.to(self._device)

    def _buffer(self, i: int) -> Buffer:
        at, held = self._held
        if at == i and held is not None:
            return held
        if held is not None:
            self._rooms.append(held.values)
        self._held = (-1, None)
        found = self._awaited(i)
        self._held = (i, found)
        return found

    def _awaited(self, i: int) -> Buffer:
        if self._pool is None:
            return self._read(i, self._room())
        first = self._ahead[-1][0] + 1 if self._ahead else i
        for number in range(first, min(i + 1 + self._n_ahead, len(self._order))):
            self._ahead.append((number, self._pool.submit(self._read, number, self._room())))
        return self._ahead.popleft()[1].result()

    def _room(self) -> Rows | None:
        return self._rooms.pop() if self._rooms else None

    def _read(self, i: int, room: Rows | None) -> Buffer:
        return read_buffer(self._reader, self._names, self._order.buffer(i), room)


def read_buffer(
    reader: _C.StoreReader, names: Sequence[str], rows: Integers, room: Rows | None
) -> Buffer:
    """Rows in any order, ascending from the disk.

    Args:
        reader: Of the store.
        names: Of values and labels.
        rows: Their numbers.
        room: Where they go, if they fit: memory that the system need not clear again.
    """
    ascending = np.argsort(rows, kind="stable")
    on_disk = torch.from_numpy(rows[ascending])
    if room is not None and any(len(values) < len(rows) for values in room.values()):
        room = None
    found = {
        name: reader.read_rows(name, on_disk, None if room is None else room[name])
        for name in names
    }
    if bool((ascending[:-1] < ascending[1:]).all()):
        return Buffer(found, None)
    return Buffer(found, torch.from_numpy(np.argsort(ascending, kind="stable")))


def order_of(  # noqa: PLR0913  the settings of a pass
    reader: _C.StoreReader,
    names: Sequence[str],
    batch: int,
    seed: int | None,
    buffer_rows: int | None,
    where: npt.NDArray[Any] | None,
    drop_last: bool,
) -> Order:
    """The order of a pass; `seed` None keeps that of the store."""
    if not names:
        raise ArgumentError("names are empty; wanted at least one")
    if batch < 1 or (buffer_rows is not None and buffer_rows < 1):
        raise ArgumentError(
            f"batch is {batch} and buffer_rows {buffer_rows}; wanted at least 1 of each"
        )
    row_bytes = _row_bytes(reader, names)
    buffer = buffer_rows or max(batch, _BUFFER_BYTES // row_bytes)
    chunk = max(1, _CHUNK_BYTES // row_bytes)
    return Order(Chosen(reader.recorded, where), batch, chunk, buffer, seed, drop_last)


def _row_bytes(reader: _C.StoreReader, names: Sequence[str]) -> int:
    sizes = {name: n_bytes for name, *_, n_bytes, _ in reader.datasets}
    return sum(sizes[name] for name in names)


def _n_given(state: BatchState | None, key: str) -> int:
    if state is None:
        return 0
    if state.order != key:
        raise ArgumentError(
            f"start_state belongs to another pass ({state.order}); this one is {key}"
        )
    return state.n_given
