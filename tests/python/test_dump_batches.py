"""Batches of a corpus: each token once, in order, and labelled; against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bezel.dump.batches import Batches, Layout, SpecialIds, checked_positions
from bezel.dump.corpus import Encoder, open_corpus
from bezel.errors import ArgumentError

BOS = 2
RANDOM = np.random.default_rng(0)
DOCUMENTS = [[BOS, *RANDOM.integers(3, 90, n).tolist()] for n in (4, 0, 11, 2, 6, 23, 1, 7)]
DOCUMENTS.insert(3, [])
ENCODER = Encoder(list, lambda *_: pytest.fail("no document has media"), 90, ())
POSITIONS: list[Any] = [
    None, "last", "not bos", slice(1, None), slice(None, -2), slice(None, None, 3), slice(-2, None),
    slice(5, 2), [0, 2], [-1, 1, 1], 3, -4, np.array([0, 6]),
]  # fmt: skip
LAYOUTS = [
    Layout(batch, length, pack)
    for batch in (1, 2, 3, 50)
    for length in (1, 4, 7, 64)
    for pack in (False, True)
]


def batches(layout: Layout, positions: Any) -> Batches:
    corpus = open_corpus(DOCUMENTS, ENCODER)
    return Batches(corpus, layout, checked_positions(positions), SpecialIds(BOS))


def rows_by_loops(layout: Layout) -> list[list[tuple[int, int, int]]]:
    """(token, document, position), for each row of a batch."""
    tokens = [
        [(token, number, position) for position, token in enumerate(document)]
        for number, document in enumerate(DOCUMENTS)
    ]
    if layout.pack:
        tokens = [[entry for document in tokens for entry in document]]
    n = layout.length
    return [part[at : at + n] for part in tokens for at in range(0, len(part), n)]


def kept_by_loops(row: list[tuple[int, int, int]], positions: Any) -> list[tuple[int, int, int]]:
    if positions is None:
        return row
    if isinstance(positions, str):
        return row[-1:] if positions == "last" else [entry for entry in row if entry[0] != BOS]
    if isinstance(positions, slice):
        return [row[i] for i in sorted(range(len(row))[positions])]
    wanted = {int(p) if p >= 0 else int(p) + len(row) for p in np.atleast_1d(positions)}
    return [entry for i, entry in enumerate(row) if i in wanted]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_rows_are_the_corpus_cut(layout: Layout) -> None:
    made = batches(layout, None)
    rows = []
    for batch in (made[i] for i in range(len(made))):
        assert batch.tokens.shape == batch.valid.shape == batch.kept.shape
        assert batch.tokens.shape[1] == batch.valid.sum(1).max()
        assert (batch.valid[:, :-1] >= batch.valid[:, 1:]).all()  # padding stands behind
        for row in range(len(batch.tokens)):
            valid = batch.valid[row]
            columns = (batch.tokens[row], batch.document[row], batch.position[row])
            rows.append(list(zip(*(column[valid].tolist() for column in columns), strict=True)))
    assert rows == rows_by_loops(layout)
    assert all(len(made[i].tokens) == layout.batch for i in range(len(made) - 1))


@pytest.mark.parametrize("positions", POSITIONS, ids=repr)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_kept_rows_are_labelled(layout: Layout, positions: Any) -> None:
    want = [e for row in rows_by_loops(layout) for e in kept_by_loops(row, positions)]
    if not want:
        with pytest.raises(ArgumentError, match="no token of the corpus is kept"):
            batches(layout, positions)
        return
    made = batches(layout, positions)
    got = []
    for i in range(len(made)):
        labels = made[i].labels()
        columns = (labels[name].tolist() for name in ("token_id", "document", "position"))
        got += list(zip(*columns, strict=True))
        assert len(got) == made.first_rows[i + 1]
    assert got == want
    assert made.n_rows == len(want)


@pytest.mark.parametrize("layout", [Layout(2, 4, False), Layout(3, 7, True)], ids=str)
@pytest.mark.parametrize("positions", [None, "last", [3]], ids=repr)
def test_batches_of_rows_hold_those_rows_and_no_batch_more(layout: Layout, positions: Any) -> None:
    made = batches(layout, positions)
    owners = [i for i in range(len(made)) for _ in range(int(made[i].kept.sum()))]
    for first in range(made.n_rows):
        for n in range(1, made.n_rows - first + 1):
            found = made.of_rows(first, n)
            assert {found.start, found.stop - 1} == {owners[first], owners[first + n - 1]}


def test_wide_batches_all_have_the_full_length() -> None:
    made = batches(Layout(2, 64, False, is_wide=True), None)
    assert all(made[i].tokens.shape[1] == 64 for i in range(len(made)))
    assert made.n_rows == sum(map(len, DOCUMENTS))


@pytest.mark.parametrize("positions", ["first", [], [0.5], [True], {}, [[1]], object()])
def test_other_positions_are_refused(positions: Any) -> None:
    with pytest.raises(ArgumentError, match="wanted a slice, whole numbers"):
        checked_positions(positions)


@pytest.mark.parametrize(("batch", "length"), [(0, 4), (2, 0), (-1, 4)])
def test_a_batch_of_nothing_is_refused(batch: int, length: int) -> None:
    with pytest.raises(ArgumentError, match="wanted at least 1 of each"):
        Layout(batch, length, pack=False)


def test_a_layout_is_no_longer_than_its_longest_row() -> None:
    corpus = open_corpus(DOCUMENTS, ENCODER)
    assert Layout(2, 64, False).fitted_to(corpus).length == max(map(len, DOCUMENTS))
    assert Layout(2, 64, True).fitted_to(corpus).length == sum(map(len, DOCUMENTS))
    assert Layout(2, 4, True).fitted_to(corpus) == Layout(2, 4, True)


def test_not_bos_needs_one() -> None:
    corpus = open_corpus(DOCUMENTS, ENCODER)
    with pytest.raises(ArgumentError, match="has no <bos>"):
        Batches(corpus, Layout(2, 4, False), "not bos", SpecialIds(None))
