"""How far a walk over shards is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

_SECONDS_BEFORE_BAR = 1.0


@contextmanager
def shard_bar(what: str, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar, where it takes longer, that is told how many shards are done, of how many."""
    with tqdm(desc=what, unit=" shards", delay=_SECONDS_BEFORE_BAR, disable=not shown) as bar:

        def advance(done: int, all_of_them: int) -> None:
            bar.total = all_of_them
            bar.update(done - bar.n)

        yield advance
