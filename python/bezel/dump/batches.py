"""A corpus as batches, and which of their tokens become rows of the store.

All of it follows from the corpus and the settings, so that any rank can make any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from bezel.dump.corpus import Corpus
from bezel.dump.corpus_media import Inputs
from bezel.errors import ArgumentError
from bezel.token_types import AUDIO, IMAGE, VIDEO, WORDS

Positions: TypeAlias = "slice | int | Sequence[int] | str | Sequence[str] | None"
Choice: TypeAlias = "slice | list[int] | Types | str | None"
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
        type: uint8 [batch pos]; 0 text, 1 image, 2 video, 3 audio.
        has_types: Whether rows are labelled with it.
    """

    tokens: Integers
    valid: npt.NDArray[np.bool_]
    kept: npt.NDArray[np.bool_]
    document: Integers
    position: Integers
    type: npt.NDArray[np.uint8]
    has_types: bool

    def labels(self) -> dict[str, torch.Tensor]:
        """Of the kept rows: what a store keeps beside the values."""
        of_all: dict[str, npt.NDArray[Any]] = {
            "token_id": self.tokens.astype(np.int32),
            "document": self.document,
            "position": self.position.astype(np.int32),
        }
        if self.has_types:
            of_all["type"] = self.type
        return {name: torch.from_numpy(label[self.kept]) for name, label in of_all.items()}


class Types(NamedTuple):
    """What the kept tokens stand for, in the order of WORDS."""

    words: tuple[str, ...]


class SpecialIds(NamedTuple):
    """Ids that decide which tokens are kept; None where the model has none."""

    bos: int | None
    image: int | None = None
    video: int | None = None
    audio: int | None = None


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
        """No longer than the longest row. Raises ArgumentError where media would be cut."""
        sizes = corpus.ends - corpus.starts
        longest = corpus.n_tokens if self.pack else int(sizes.max())
        for number in corpus.media.numbers() if corpus.media else []:
            if self.pack or sizes[number] > self.length:
                raise ArgumentError(
                    f"document {number} has media and {sizes[number]} tokens, and cannot be cut; "
                    f"wanted pack=False and a length of at least that (it is {self.length})"
                )
        return replace(self, length=min(self.length, longest))


def checked_positions(positions: Positions) -> Choice:
    """The one form of each.

    Returns:
        A slice, ascending whole numbers, types of tokens, "last", "not bos" or None.
    """
    if positions is None or isinstance(positions, slice):
        return positions
    if isinstance(positions, str) and positions in (LAST, NOT_BOS):
        return positions
    places = np.atleast_1d(np.asarray(positions))
    if places.ndim == 1 and places.size:
        if places.dtype.kind in "iu":
            return sorted(set(places.tolist()))
        if places.dtype.kind == "U" and set(places.tolist()) <= set(WORDS):
            return Types(tuple(word for word in WORDS if word in places))
    raise ArgumentError(
        f'positions are {positions!r}; wanted a slice, whole numbers, "{LAST}", "{NOT_BOS}", or '
        f"types of tokens: {', '.join(WORDS)}"
    )


class Batches:
    """All batches of a corpus.

    Attributes:
        first_rows: int64 [batch + 1]; the number of the first kept row of each, then of all.
    """

    def __init__(self, corpus: Corpus, layout: Layout, positions: Choice, ids: SpecialIds) -> None:
        if positions == NOT_BOS and ids.bos is None:
            raise ArgumentError(f'positions are "{NOT_BOS}", and the model has no <bos>')
        self._corpus, self._layout, self._ids = corpus, layout, ids
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

    @property
    def most_rows(self) -> int:
        """Of a batch."""
        return int(np.diff(self.first_rows).max())

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
        types = self._types(tokens, valid)
        kept = valid & self._chosen(tokens, types, lengths, places)
        return Batch(
            tokens.astype(np.int64), valid, kept, document.astype(np.int64), position, types,
            self._corpus.media is not None,
        )  # fmt: skip

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

    def media(self, batch: Batch) -> Inputs:
        """What a run takes beside its tokens."""
        media = self._corpus.media
        return media.of(batch.document[:, 0].tolist()) if media else {}

    def _types(self, tokens: Integers, valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
        types = np.zeros(tokens.shape, dtype=np.uint8)
        if self._corpus.media is None:  # then no token stands for a part of some
            return types
        for type, id in (
            (IMAGE, self._ids.image),
            (VIDEO, self._ids.video),
            (AUDIO, self._ids.audio),
        ):
            if id is not None:
                types[valid & (tokens == id)] = type
        return types

    def _chosen(
        self, tokens: Integers, types: npt.NDArray[np.uint8], lengths: Integers, places: Integers
    ) -> npt.NDArray[np.bool_]:
        positions, shape = self._positions, tokens.shape
        if positions is None:
            return np.ones(shape, dtype=np.bool_)
        if positions == NOT_BOS:
            return np.asarray(tokens != self._ids.bos)
        if isinstance(positions, Types):
            return np.isin(types, [WORDS.index(word) for word in positions.words])
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
