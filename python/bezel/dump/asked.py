"""The names that a dump asks for, as columns; and which tokens have a row of all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch.nn import functional

from bezel.arguments import MediaArguments
from bezel.dump.batches import Choice, Types
from bezel.dump.chosen import soft_tokens
from bezel.dump.columns import DTYPES, Column, columns_of
from bezel.dump.corpus import Corpus
from bezel.dump.reductions import Reduce, Reductions, reductions_of
from bezel.errors import ArgumentError, HookNeverFiredError
from bezel.selection import NamesFilter
from bezel.token_types import WORDS

if TYPE_CHECKING:
    from bezel.bridge import Bridge
    from bezel.dump.corpus_media import Inputs


@dataclass(frozen=True)
class Asked:
    """What is stored as it is, and what is reduced."""

    b: Bridge
    hooks: NamesFilter
    reduce: Reduce
    dtype: torch.dtype | None

    def __post_init__(self) -> None:
        dtype = self.dtype
        if dtype is not None and (dtype not in DTYPES or not dtype.is_floating_point):
            raise ArgumentError(
                f"dtype is {dtype}; wanted torch.bfloat16, torch.float32 or torch.float64"
            )
        if self._is_nothing and not self.reduce:
            raise ArgumentError("hooks and reduce are empty, so that nothing would be stored")

    def check(self, length: int) -> None:
        """Raises for what no corpus of such rows could have."""
        with contextlib.suppress(HookNeverFiredError):  # with media it may fire
            self._columns(torch.zeros(1, length, dtype=torch.int64), {})

    def columns(self, corpus: Corpus, length: int) -> tuple[list[Column], Reductions]:
        """Of rows of so many tokens."""
        if corpus.media is None:
            return self._columns(torch.zeros(1, length, dtype=torch.int64), {})
        numbers = corpus.media.samples()
        rows = [torch.tensor(corpus.document(number)).long() for number in numbers]
        tokens = torch.stack([functional.pad(row, (0, length - len(row))) for row in rows])
        return self._columns(tokens, corpus.media.of(numbers))

    @property
    def _is_nothing(self) -> bool:
        return isinstance(self.hooks, Sequence) and not self.hooks

    def _columns(self, tokens: torch.Tensor, media: Inputs) -> tuple[list[Column], Reductions]:
        patches, _ = soft_tokens(self.b, media) if media else (None, None)
        n_patches = 0 if patches is None else patches.shape[1]

        def of(names: NamesFilter) -> list[Column]:
            plan = self.b.plan(tokens, names, **cast(MediaArguments, media))
            return columns_of(plan, self.dtype, n_patches)

        stored = [] if self._is_nothing else of(self.hooks)
        return stored, reductions_of({key: of(key) for key in self.reduce}, self.reduce)


def kept_types(columns: list[Column], positions: Choice) -> Choice:
    """Positions that every column has a row of.

    Raises:
        ArgumentError: Some column has none of them.
    """
    common = [word for word in WORDS if all(word in column.types for column in columns)]
    if len(common) == len(WORDS):
        return positions
    if not common:
        vision = next(c.name for c in columns if "image" in c.types and "text" not in c.types)
        audio = next(c.name for c in columns if c.types == ("audio",))
        raise ArgumentError(
            f'"{vision}" has rows of images and "{audio}" of sound, and no token has both; make a '
            "store of each"
        )
    if positions is None and all("text" not in column.types for column in columns):
        return Types(tuple(common))
    if isinstance(positions, Types) and set(positions.words) <= set(common):
        return positions
    given = list(positions.words) if isinstance(positions, Types) else positions
    limited = next(column.name for column in columns if "text" not in column.types)
    raise ArgumentError(
        f'positions are {given!r}, and "{limited}" has rows of tokens that stand for '
        f"{' or '.join(common)} alone; wanted positions={common}, or a store of its own for it"
    )
