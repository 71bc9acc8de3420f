"""The loop of a dump: shards of the store, batches of the shard, rows of the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from bezel import _C
from bezel.dump.batches import Batch, Batches
from bezel.dump.chosen import Chosen
from bezel.dump.columns import Column
from bezel.dump.reductions import Reductions, Statistics
from bezel.moments import Moments

if TYPE_CHECKING:
    from bezel.bridge import Bridge

_LABEL_BYTES = 16  # of a row, about
Rows = dict[str, torch.Tensor]  # by name: [row …]


@dataclass
class Made:
    """What a batch gives.

    Attributes:
        labels: Of the rows.
        stored: Rows that go to the store as they are: on the CPU, contiguous.
        reduced: Rows of values whose shards keep statistics: where the model is.
    """

    labels: Rows = field(default_factory=dict)
    stored: Rows = field(default_factory=dict)
    reduced: Rows = field(default_factory=dict)


@dataclass
class Source:
    """Makes the rows of a batch, and holds those of the last one.

    Attributes:
        b: The model.
        batches: Of the corpus.
        columns: What to keep.
        reductions: What to make of values, whether or not they are kept.
        dtype: Of floating values; None leaves them.
    """

    b: Bridge
    batches: Batches
    columns: list[Column]
    reductions: Reductions
    dtype: torch.dtype | None
    _last: tuple[int, Made] = field(default_factory=lambda: (-1, Made()))

    def stored(self) -> list[_C.StoreValue]:
        """As the manifest has them."""
        return [*(column.stored() for column in self.columns), *self.reductions.stored()]

    @property
    def row_bytes(self) -> int:
        """Of disk, with labels."""
        entries = [value.entry_bytes for value in self.stored() if not value.per_shard]
        return _LABEL_BYTES + sum(entries)

    def made(self, i: int) -> Made:
        """Of batch i. A batch that goes on in the next shard runs once."""
        if self._last[0] != i:
            self._last = (-1, Made())  # the old rows go before the new ones come
            self._last = (i, self._run(i))
        return self._last[1]

    def _run(self, i: int) -> Made:
        batch = self.batches[i]
        media: dict[str, Any] = self.batches.media(batch)
        with torch.no_grad():
            _, cache = self.b.run_with_cache(
                torch.from_numpy(batch.tokens),
                list(dict.fromkeys(c.name for c in (*self.columns, *self.reductions.columns))),
                dtype=self.dtype,
                return_type=None,
                **media,
                **self._mask(batch),
            )
        chosen = Chosen.of(batch, media, self.b)
        made = Made(batch.labels())
        for column in self.columns:
            made.stored[column.name] = column.rows(cache[column.name], chosen)
        for one in self.reductions.by_row:
            made.stored |= one.rows(one.of.rows(cache[one.of.name], chosen))
        for whole in self.reductions.by_shard:
            made.reduced[whole.of.name] = whole.of.rows(cache[whole.of.name], chosen)
        made.stored = {name: rows.cpu().contiguous() for name, rows in made.stored.items()}
        return made

    def _mask(self, batch: Batch) -> dict[str, Any]:
        """None where the tokens need none: a run without a mask takes less time."""
        outermost = batch.tokens[:, [0, -1]]  # padding ids there would be taken for padding
        if batch.valid.all() and not (outermost == self.b.cfg.pad_token_id).any():
            return {}
        return {"attention_mask": torch.from_numpy(batch.valid).long()}


def write(source: Source, writer: _C.StoreWriter, progress: Callable[[int], None]) -> None:
    """Runs the model for every shard that the writer has to write.

    Args:
        source: Makes the rows.
        writer: Takes them; a full queue makes it wait.
        progress: Is told how many rows the last batch gave.
    """
    first_rows = source.batches.first_rows
    for shard in writer.todo:
        first, n = writer.rows_of(shard)
        writer.begin(shard)
        once = _Once(source.reductions.by_shard, n)
        for i in source.batches.of_rows(first, n):
            begin, end = int(first_rows[i]), int(first_rows[i + 1])
            if begin == end:  # a batch of which nothing is kept need not run
                continue
            part = slice(max(first, begin) - begin, min(first + n, end) - begin)
            made = source.made(i)
            for name, rows in made.stored.items():
                writer.put(name, rows[part])
            once.add(made, part)
            progress(part.stop - part.start)
        once.put(writer)
    writer.finish()


class _Once:
    """What a shard gets at its end: labels, which are small, and statistics of all its rows."""

    def __init__(self, statistics: list[Statistics], n_rows: int) -> None:
        self._statistics, self._n_rows = statistics, n_rows
        self._labels: Rows = {}
        self._moments: dict[str, Moments] = {}
        self._n = 0

    def add(self, made: Made, part: slice) -> None:
        """The next rows."""
        end = self._n + part.stop - part.start
        for name, rows in made.labels.items():
            if name not in self._labels:
                # In one piece: small ones that stay cut up the memory that batches give back.
                self._labels[name] = torch.empty(self._n_rows, dtype=rows.dtype)
            self._labels[name][self._n : end] = rows[part]
        for one in self._statistics:
            rows = made.reduced[one.of.name][part]
            self._moments[one.of.name] = one.add(self._moments.get(one.of.name), rows)
        self._n = end

    def put(self, writer: _C.StoreWriter) -> None:
        """All of it."""
        for name, label in self._labels.items():
            writer.put(name, label)
        for one in self._statistics:
            for name, entry in one.entries(self._moments[one.of.name]).items():
                writer.put(name, entry)
