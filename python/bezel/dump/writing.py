"""The loop of a dump: shards of the store, batches of the shard, rows of the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from bezel import _C
from bezel.dump.batches import Batches
from bezel.dump.columns import Column

if TYPE_CHECKING:
    from bezel.bridge import Bridge

Rows = dict[str, torch.Tensor]  # by name of value or label: [row …]


@dataclass
class Source:
    """Makes the rows of a batch, and holds those of the last one.

    Attributes:
        b: The model.
        batches: Of the corpus.
        columns: What to keep.
        dtype: Of floating values; None leaves them.
    """

    b: Bridge
    batches: Batches
    columns: list[Column]
    dtype: torch.dtype | None
    _last: tuple[int, Rows] = field(default_factory=lambda: (-1, {}))

    def rows(self, i: int) -> Rows:
        """Of batch i. A batch that goes on in the next shard runs once."""
        if self._last[0] != i:
            self._last = (-1, {})  # the old rows go before the new ones come
            self._last = (i, self._run(i))
        return self._last[1]

    def _run(self, i: int) -> Rows:
        batch = self.batches[i]
        rows = batch.labels()
        with torch.no_grad():
            _, cache = self.b.run_with_cache(
                torch.from_numpy(batch.tokens),
                list(dict.fromkeys(column.name for column in self.columns)),
                dtype=self.dtype,
                attention_mask=torch.from_numpy(batch.valid).long(),
                return_type=None,
            )
        kept = torch.from_numpy(batch.kept)
        if self.b.device.type != "cpu":
            kept = kept.to(self.b.device)
        for column in self.columns:
            rows[column.name] = column.rows(cache[column.name], kept)
        return rows


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
        for i in source.batches.of_rows(first, n):
            begin, end = int(first_rows[i]), int(first_rows[i + 1])
            part = slice(max(first, begin) - begin, min(first + n, end) - begin)
            for name, rows in source.rows(i).items():
                writer.put(name, rows[part])
            progress(part.stop - part.start)
    writer.finish()
