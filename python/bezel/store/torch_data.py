"""A store as a dataset of torch.utils.data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import IterableDataset, get_worker_info

from bezel.store import ActivationStore
from bezel.store.iterating import Integers, Order, order_of, read_buffer


class StoreDataset(IterableDataset[dict[str, torch.Tensor]]):
    """Batches of rows for a DataLoader with batch_size=None.

    The batches and their order are those of `ActivationStore.iter_batches` with the same settings,
    for any number of workers, forked or spawned: each reads its share of the batches.

    Args:
        store: The store.
        names: Values and labels that a batch holds.
        batch: Rows of a batch.
        shuffle, seed, buffer_rows, where, drop_last: As in `iter_batches`.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> from bezel.store.torch_data import StoreDataset
        >>> rows = StoreDataset(bezel.ActivationStore("acts"), ["token_id"], batch=5)
        >>> [len(batch["token_id"]) for batch in DataLoader(rows, batch_size=None)]
        [5, 5, 3]
    """

    def __init__(  # noqa: PLR0913  the settings of a pass
        self,
        store: ActivationStore,
        names: Sequence[str],
        batch: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        buffer_rows: int | None = None,
        where: npt.NDArray[Any] | None = None,
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        for name in names:
            store[name]  # raises for an unknown one
        self.store, self.names, self.batch = store, list(names), batch
        self.shuffle, self.seed, self.buffer_rows = shuffle, seed, buffer_rows
        self.where, self.drop_last = where, drop_last
        self._order()  # refuses settings here, and not in a worker

    def __len__(self) -> int:
        """Batches of a pass."""
        return self._order().n_batches

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        order = self._order()
        held: tuple[int, Integers] = (-1, np.zeros(0, dtype=np.int64))
        for number in range(first, order.n_batches, step):
            rows = []
            for i, part in order.parts(number):
                if held[0] != i:
                    held = (i, order.buffer(i))
                rows.append(held[1][part])
            wanted = np.concatenate(rows)
            read = read_buffer(self.store._reader, self.names, wanted, None)
            yield {name: read.copied(name, slice(None)) for name in self.names}

    def _order(self) -> Order:
        seed = self.seed if self.shuffle else None
        return order_of(
            self.store._reader, self.names, self.batch, seed, self.buffer_rows, self.where,
            self.drop_last,
        )  # fmt: skip
