"""A corpus as batches, and which of their tokens become rows of the store.

All of it follows from the corpus and the settings, so that any rank can make any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from bezel.dump.corpus import Corpus
from bezel.errors import ArgumentError

Positions: TypeAlias = "slice | int | Sequence[int] | str | None"
Choice: TypeAlias = "slice | list[int] | str | None"
LAST, NOT_BOS = "last", "not bos"
Integers: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """One run, and what its tokens are.

    Attributes:
        tokens: int64 [batch pos]; padding behind the ends of rows.
        valid: bool [batch pos].
        kept: bool [batch pos]; tokens that become rows of the store.
        document: int64 [batch pos]; which document of the corpus.
        position: int64 [batch pos]; place in that document.
    """

    tokens: Integers
    valid: npt.NDArray[np.bool_]
    kept: npt.NDArray[np.bool_]
    document: Integers
    position: Integers

    def labels(self) -> dict[str, torch.Tensor]:
        """Of the kept rows: what a store keeps beside the values."""
        kinds = {"token_id": torch.int32, "document": torch.int64, "position": torch.int32}
        of_all = {"token_id": self.tokens, "document": self.document, "position": self.position}
        return {
            name: torch.from_numpy(of_all[name][self.kept]).to(kind) for name, kind in kinds.items()
        }


@dataclass(frozen=True)
class Layout:
    """How documents become the rows of batches.

    Attributes:
        batch: Rows of a batch.
        length: Tokens of a row at most.
        pack: True: rows of full length, whatever documents they cut or join. False: a row has one
            document, or a part of one that is longer, and padding behind it.
        is_wide: Each batch has the full length, also where its rows are shorter.
    """

    batch: int
    length: int
    pack: bool
    is_wide: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1 or self.length < 1:
            raise ArgumentError(
                f"batch is {self.batch} and length {self.length}; wanted at least 1 of each"
            )

    def fitted_to(self, corpus: Corpus) -> Layout:
        """No longer than the longest row."""
        longest = corpus.n_tokens if self.pack else int((corpus.ends - corpus.starts).max())
        return replace(self, length=min(self.length, longest))


def checked_positions(positions: Positions) -> Choice:
    """The one form of each: a slice, ascending whole numbers, "last", "not bos" or None."""
    if positions is None or isinstance(positions, slice):
        return positions
    if isinstance(positions, str):
        if positions in (LAST, NOT_BOS):
            return positions
    else:
        places = np.atleast_1d(np.asarray(positions))
        if places.ndim == 1 and places.dtype.kind in "iu" and places.size:
            return sorted(set(places.tolist()))
    raise ArgumentError(
        f'positions are {positions!r}; wanted a slice, whole numbers, "{LAST}" or "{NOT_BOS}"'
    )


class Batches:
    """All batches of a corpus.

    Attributes:
        first_rows: int64 [batch + 1]; the number of the first kept row of each, then of all.
    """

    def __init__(self, corpus: Corpus, layout: Layout, positions: Choice, bos: int | None) -> None:
        if positions == NOT_BOS and bos is None:
            raise ArgumentError(f'positions are "{NOT_BOS}", and the model has no <bos>')
        self._corpus, self._layout, self._bos = corpus, layout, bos
        self._positions = positions
        self._starts, self._lengths = self._rows()
        self.first_rows: Integers = np.concatenate([[0], np.cumsum(self._counts())]).astype(
            np.int64
        )
        if not self.n_rows:
            raise ArgumentError(f"positions are {positions!r}: no token of the corpus is kept")

    @property
    def n_rows(self) -> int:
        """Of the whole store."""
        return int(self.first_rows[-1])

    def __len__(self) -> int:
        return -(-len(self._starts) // self._layout.batch)

    def __getitem__(self, i: int) -> Batch:
        rows = slice(i * self._layout.batch, (i + 1) * self._layout.batch)
        starts, lengths = self._starts[rows], self._lengths[rows]
        width = self._layout.length if self._layout.is_wide else int(lengths.max())
        places = np.arange(width)
        valid = places < lengths[:, None]
        at = np.where(valid, starts[:, None] + places, starts[:, None])
        tokens = np.where(valid, self._corpus.ids[at.ravel()].reshape(at.shape), 0)
        document = np.searchsorted(self._corpus.ends, at, side="right")
        position = at - self._corpus.starts[document]
        kept = valid & self._chosen(tokens, lengths, places)
        return Batch(tokens.astype(np.int64), valid, kept, document.astype(np.int64), position)

    def of_rows(self, first: int, n: int) -> range:
        """The batches that hold these rows of the store."""
        begin = int(np.searchsorted(self.first_rows, first, side="right")) - 1
        end = int(np.searchsorted(self.first_rows, first + n, side="left"))
        return range(begin, end)

    def _counts(self) -> Integers:
        """Kept rows of each batch."""
        if self._positions is None:
            return np.add.reduceat(
                self._lengths, np.arange(0, len(self._lengths), self._layout.batch)
            )
        return np.array([int(self[i].kept.sum()) for i in range(len(self))])

    def _rows(self) -> tuple[Integers, Integers]:
        """Of each row of a batch: where in the corpus it begins, and its tokens."""
        length = self._layout.length
        if self._layout.pack:
            starts = np.arange(0, self._corpus.n_tokens, length, dtype=np.int64)
            return starts, np.minimum(length, self._corpus.n_tokens - starts)
        sizes = np.diff(self._corpus.ends, prepend=0)
        n_parts = -(-sizes // length)  # none of an empty document
        part = np.arange(n_parts.sum()) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)
        starts = np.repeat(self._corpus.starts, n_parts) + part * length
        return starts, np.minimum(length, np.repeat(self._corpus.ends, n_parts) - starts)

    def _chosen(
        self, tokens: Integers, lengths: Integers, places: Integers
    ) -> npt.NDArray[np.bool_]:
        positions, shape = self._positions, tokens.shape
        if positions is None:
            return np.ones(shape, dtype=np.bool_)
        if positions == NOT_BOS:
            return np.asarray(tokens != self._bos)
        if positions == LAST:
            return np.asarray(places == lengths[:, None] - 1)
        chosen = np.zeros(shape, dtype=np.bool_)
        for row, length in enumerate(lengths.tolist()):
            if isinstance(positions, slice):
                chosen[row, :length][positions] = True
                continue
            for place in positions:
                if -length <= int(place) < length:
                    chosen[row, int(place) % length] = True
        return chosen
