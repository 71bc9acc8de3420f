"""What a dump reads: every form of a corpus gives the same documents, or says why it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from bezel.dump.corpus import Corpus, Encoder, open_corpus
from bezel.errors import ArgumentError

DOCUMENTS = [[2, 5, 7, 9], [2, 6], [2, 4, 4, 4, 8]]
WORDS = {"b": 2, "c": 4, "d": 5, "e": 6, "f": 7, "g": 8, "h": 9}
D_VOCAB = 10


def encode(text: str) -> list[int]:
    return [WORDS[letter] for letter in text]


ENCODER = Encoder(encode, lambda *_: pytest.fail("no document has media"), D_VOCAB, ())


def texts() -> list[str]:
    letters = {number: letter for letter, number in WORDS.items()}
    return ["".join(letters[token] for token in document) for document in DOCUMENTS]


def read(source: Any, column: str | None = None) -> Corpus:
    return open_corpus(source, ENCODER, column)


def documents_of(corpus: Corpus) -> list[list[int]]:
    bounds = zip(corpus.starts.tolist(), corpus.ends.tolist(), strict=True)
    return [corpus.ids[begin:end].tolist() for begin, end in bounds]


def npz(folder: Path) -> Path:
    tokens = np.zeros((3, 5), dtype=np.uint16)
    for row, document in zip(tokens, DOCUMENTS, strict=True):
        row[: len(document)] = document
    np.savez(folder / "a.npz", tokens=tokens, lengths=[4, 2, 5])
    return folder / "a.npz"


def flat_npz(folder: Path) -> Path:
    np.savez(folder / "b.npz", tokens=np.concatenate(DOCUMENTS), lengths=np.array([4, 2, 5]))
    return folder / "b.npz"


def json_lines(folder: Path, rows: list[Any]) -> Path:
    path = folder / "c.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return path


def lines(folder: Path) -> Path:
    (folder / "d.txt").write_text("\n\n".join(texts()))
    return folder / "d.txt"


def dataset(folder: Path, **columns: list[Any]) -> Path:
    datasets.Dataset.from_dict(columns).save_to_disk(folder / "e")
    return folder / "e"


SOURCES: dict[str, Callable[[Path], Any]] = {
    "padded npz": npz,
    "flat npz": flat_npz,
    "texts in JSON": lambda f: json_lines(f, [{"text": text} for text in texts()]),
    "bare texts in JSON": lambda f: json_lines(f, texts()),
    "ids in JSON": lambda f: json_lines(f, [{"tokens": ids} for ids in DOCUMENTS]),
    "input_ids in JSON": lambda f: json_lines(f, [{"input_ids": ids} for ids in DOCUMENTS]),
    "lines": lines,
    "a dataset of texts": lambda f: dataset(f, text=texts()),
    "a dataset of ids": lambda f: dataset(f, input_ids=DOCUMENTS),
    "a list of texts": lambda _: texts(),
    "a list of ids": lambda _: DOCUMENTS,
    "an iterator": lambda _: iter(texts()),
    "tensors": lambda _: [torch.tensor(document) for document in DOCUMENTS],
    "arrays": lambda _: (np.array(document, dtype=np.uint8) for document in DOCUMENTS),
    "a path as text": lambda f: str(lines(f)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_form_holds_the_same_documents(tmp_path: Path, name: str) -> None:
    corpus = read(SOURCES[name](tmp_path))
    assert documents_of(corpus) == DOCUMENTS
    assert corpus.fingerprint == read(DOCUMENTS).fingerprint
    assert corpus.n_tokens == 11


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint16])
def test_an_array_has_a_document_a_row(tmp_path: Path, kind: Any) -> None:
    tokens = np.array([[2, 3, 4], [2, 5, 6]], dtype=kind)
    np.save(tmp_path / "a.npy", tokens)
    sources = [tmp_path / "a.npy", tokens, torch.from_numpy(tokens.astype(np.int64))]
    for source in sources:
        assert documents_of(read(source)) == tokens.tolist()
    assert len({read(source).fingerprint for source in sources}) == 1


def test_a_long_array_is_read_where_it_lies(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 5), dtype=np.int32))
    ids = read(tmp_path / "a.npy").ids
    while not isinstance(ids, np.memmap):
        assert isinstance(ids.base, np.ndarray)
        ids = ids.base


def test_one_row_of_ids_is_one_document() -> None:
    assert documents_of(read(np.array([2, 3, 4]))) == [[2, 3, 4]]


def test_empty_documents_keep_their_numbers() -> None:
    assert documents_of(read([[2, 3], [], [4]])) == [[2, 3], [], [4]]


def test_a_column_may_be_named(tmp_path: Path) -> None:
    rows = [{"text": "hh", "story": text} for text in texts()]
    assert documents_of(read(json_lines(tmp_path, rows), "story")) == DOCUMENTS
    assert documents_of(read(rows, "story")) == DOCUMENTS


@pytest.mark.parametrize(
    "other",
    [
        [[2, 5, 7, 9], [2, 6], [2, 4, 4, 4, 4]],
        [[2, 5, 7, 9, 2], [6], [2, 4, 4, 4, 8]],
        [[2, 5, 7, 9], [2, 6], [], [2, 4, 4, 4, 8]],
    ],
)
def test_another_corpus_has_another_fingerprint(other: list[list[int]]) -> None:
    assert read(other).fingerprint != read(DOCUMENTS).fingerprint


def failing(tmp_path: Path, what: str) -> Any:
    (tmp_path / "text.csv").write_text("a")
    (tmp_path / "bad.jsonl").write_text('"bc"\n{')
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "floats.npy", np.ones((2, 2)))
    np.savez(tmp_path / "other.npz", ids=np.ones(2, dtype=int))
    np.savez(tmp_path / "short.npz", tokens=np.ones((2, 2), dtype=int), lengths=np.array([3, 1]))
    np.savez(tmp_path / "few.npz", tokens=np.ones((2, 2), dtype=int), lengths=np.array([1]))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    split = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["b"]})})
    split.save_to_disk(tmp_path / "splits")
    (tmp_path / "empty").mkdir()
    return tmp_path / what


def numbers() -> Iterator[int]:
    yield 3


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda f: failing(f, "absent.npy"), "absent.npy does not exist"),
        (lambda f: failing(f, "text.csv"), "wanted .npy or .npz"),
        (lambda f: failing(f, "bad.jsonl"), "bad.jsonl, line 2: is not JSON"),
        (lambda f: failing(f, "bad.npy"), "bad.npy could not be read"),
        (lambda f: failing(f, "objects.npy"), "objects.npy could not be read"),
        (lambda f: failing(f, "floats.npy"), "holds float64 [2, 2]; wanted ids"),
        (lambda f: failing(f, "other.npz"), 'holds ids; wanted "tokens"'),
        (lambda f: failing(f, "short.npz"), "wanted one for each document"),
        (lambda f: failing(f, "few.npz"), "wanted one for each document"),
        (lambda f: failing(f, "splits"), "holds the splits train; give the folder of one"),
        (lambda f: failing(f, "empty"), "could not be read"),
        (lambda _: np.zeros((0, 3), dtype=int), "holds int64 [0, 3]"),
        (lambda _: np.zeros((1, 1, 3), dtype=int), "holds int64 [1, 1, 3]"),
        (lambda _: [], "no tokens"),
        (lambda _: [[]], "no tokens"),
        (lambda _: [[2, 10]], "ids from 2 to 10; the vocabulary has 0 to 9"),
        (lambda _: [[-1, 2]], "ids from -1 to 2"),
        (lambda _: [[2, 2**31]], "beyond 32 bits"),
        (lambda _: [[0.5]], "document 0 of the corpus is list; wanted a text, or ids"),
        (lambda _: [[2], 3], "document 1 of the corpus is int"),
        (lambda _: numbers(), "document 0 of the corpus is int"),
        (lambda _: [{"story": "b"}], 'has \'story\'; wanted "text", "tokens" or "input_ids"'),
        (lambda _: [[[2, 3]]], "document 0 of the corpus is list"),
    ],
)
def test_what_is_no_corpus_is_refused(
    tmp_path: Path, make: Callable[[Path], Any], told: str
) -> None:
    with pytest.raises(ArgumentError) as refused:
        read(make(tmp_path))
    assert told in str(refused.value)
