"""What a dump reads: token ids of documents, counted and hashed before the first run.

Arrays are read where they lie. Texts and iterators are taken once, into a temporary file of four
bytes a token: how many rows there are, and what they come from, must be known before the first.
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from bezel.dump.corpus_files import Flat, Ids, of_array, of_path
from bezel.dump.corpus_media import Inputs, MediaDocuments, has_media
from bezel.errors import ArgumentError

Source: TypeAlias = "str | Path | npt.NDArray[Any] | torch.Tensor | Iterable[Any]"
_TOKENS_AT_ONCE = 1 << 22  # looked at, hashed
_SECONDS_BEFORE_BAR = 1.0


@dataclass(frozen=True)
class Encoder:
    """How documents become token ids.

    Attributes:
        text: A text → ids.
        media: A document that has media, its text, and the folder in which its paths begin → what a
            run takes.
        d_vocab: Ids are below this.
        media_ids: Those that stand for parts of images, videos and clips.
    """

    text: Callable[[str], Sequence[int]]
    media: Callable[[dict[str, Any], str | None, Path], Inputs]
    d_vocab: int
    media_ids: tuple[int, ...]


@dataclass(frozen=True)
class Corpus:
    """Documents, one behind the other.

    Attributes:
        ids: [token], whole numbers below the vocabulary's size.
        ends: int64 [document], where in `ids` each one ends.
        media: Of those documents that have some; None: no document has.
        fingerprint: SHA-256 of all of it.
    """

    ids: Ids
    ends: npt.NDArray[np.int64]
    media: MediaDocuments | None
    fingerprint: str

    @property
    def n_tokens(self) -> int:
        """Of all documents."""
        return len(self.ids)

    @functools.cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """int64 [document], where each one begins."""
        return np.concatenate([[0], self.ends[:-1]])

    def document(self, number: int) -> Ids:
        """Its ids [token]."""
        return self.ids[self.starts[number] : self.ends[number]]


def open_corpus(
    source: Source, encoder: Encoder, column: str | None = None, verbose: bool = False
) -> Corpus:
    """Reads or opens a corpus.

    Args:
        source: As `bezel.dump` says.
        encoder: Makes ids of documents.
        column: Of JSON lines and datasets: the field with a text or with ids.
        verbose: Show how many documents were read, where that takes longer.

    Raises:
        ArgumentError: For what is none of these, for ids outside the vocabulary or of media that
            are not there, for no tokens.
    """
    found, media = (of_path(Path(source)) if isinstance(source, str | Path) else source), None
    if isinstance(found, np.ndarray | torch.Tensor):
        array = found.cpu().numpy() if isinstance(found, torch.Tensor) else found
        found = of_array(array, None, "the corpus")
    if not isinstance(found, Flat):
        folder = Path(source).parent if isinstance(source, str | Path) else Path()
        reading = _Reading(found, encoder, column, folder)
        found = _spooled(reading, verbose)
        media = reading.media if len(reading.media) else None
    fingerprint = _fingerprint(found, encoder.d_vocab)
    _check_media_ids(found, encoder.media_ids, media.numbers() if media else [])
    if media:
        fingerprint = hashlib.sha256((fingerprint + media.fingerprint()).encode()).hexdigest()
    return Corpus(found.ids, found.ends, media, fingerprint)


class _Reading:
    """Documents → their ids, once; the media among them."""

    def __init__(
        self, documents: Iterable[Any], encoder: Encoder, column: str | None, folder: Path
    ) -> None:
        self.documents = documents
        self._encoder, self._column, self._folder = encoder, column, folder
        again: Any = documents  # with media it must be a sequence: checked where one comes
        self.media = MediaDocuments(again, self._prepared)

    def ids(self, number: int, document: Any) -> Any:
        """Of a document [pos]."""
        if not has_media(document):
            return self._ids_of(number, document)
        if not (hasattr(self.documents, "__getitem__") and hasattr(self.documents, "__len__")):
            raise ArgumentError(
                f"document {number} of the corpus has media, which are read again when its batch "
                "runs, and the corpus is an iterator; give a list, a dataset or JSON lines"
            )
        try:
            return self.media.add(number, document).numpy()
        except ArgumentError as error:
            raise ArgumentError(f"document {number} of the corpus: {error}") from error

    def _prepared(self, document: Any) -> Inputs:
        text = None if "input" in document else self._field_of(document)
        if text is not None and not isinstance(text, str):
            raise ArgumentError(f"its text is a {type(text).__name__}; wanted one beside media")
        return self._encoder.media(document, text, self._folder)

    def _ids_of(self, number: int, document: Any) -> Any:
        where = f"document {number} of the corpus"
        try:
            found = self._field_of(document) if isinstance(document, dict) else document
        except ArgumentError as error:
            raise ArgumentError(f"{where} {error}") from error
        if isinstance(found, str):
            return self._encoder.text(found)
        ids = found.cpu().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
        if ids.ndim != 1 or (ids.dtype.kind not in "iu" and ids.size):
            raise ArgumentError(f"{where} is {type(found).__name__}; wanted a text, or ids [pos]")
        if ids.size and (int(ids.min()) < -(2**31) or int(ids.max()) >= 2**31):
            raise ArgumentError(f"{where} has ids beyond 32 bits")
        return ids

    def _field_of(self, document: dict[str, Any]) -> Any:
        for name in (self._column,) if self._column else ("text", "tokens", "input_ids"):
            if name in document:
                return document[name]
        wanted = f'"{self._column}"' if self._column else '"text", "tokens" or "input_ids"'
        raise ArgumentError(
            f"has {', '.join(map(repr, document)) or 'no fields'}; wanted {wanted}; name another "
            "with column="
        )


def _spooled(reading: _Reading, verbose: bool) -> Flat:
    ends: list[int] = []
    n_tokens = 0
    shown = tqdm(
        reading.documents, "reading", unit=" documents", disable=not verbose,
        delay=_SECONDS_BEFORE_BAR,
    )  # fmt: skip
    with tempfile.TemporaryFile(prefix="bezel-corpus-") as file:
        for number, document in enumerate(shown):
            ids = np.asarray(reading.ids(number, document), dtype="<i4")
            n_tokens += len(ids)
            ends.append(n_tokens)
            file.write(ids.tobytes())
        file.flush()
        if not n_tokens:
            raise ArgumentError("the corpus has no tokens")
        # The mapping outlives the name and the file object.
        return Flat(np.memmap(file, dtype="<i4", mode="r"), np.array(ends, dtype=np.int64))


def _fingerprint(flat: Flat, d_vocab: int) -> str:
    digest = hashlib.sha256(flat.ends.astype("<i8").tobytes())
    for _, part in _parts(flat.ids):
        lowest, highest = int(part.min()), int(part.max())
        if lowest < 0 or highest >= d_vocab:
            raise ArgumentError(
                f"the corpus has ids from {lowest} to {highest}; the vocabulary has 0 to "
                f"{d_vocab - 1}"
            )
        digest.update(part.astype("<i4").tobytes())
    return digest.hexdigest()


def _check_media_ids(flat: Flat, media_ids: tuple[int, ...], with_media: list[int]) -> None:
    for begin, part in _parts(flat.ids):
        for id in media_ids:
            documents = np.searchsorted(flat.ends, begin + np.flatnonzero(part == id), "right")
            strays = np.setdiff1d(documents, with_media)
            if strays.size:
                raise ArgumentError(
                    f"document {strays[0]} of the corpus has the id {id}, which stands for a part "
                    'of an image, a video or a clip, and none beside it; give "images", "videos" '
                    'or "audio", or leave the id out'
                )


def _parts(ids: Ids) -> Iterable[tuple[int, Ids]]:
    for begin in range(0, len(ids), _TOKENS_AT_ONCE):
        yield begin, ids[begin : begin + _TOKENS_AT_ONCE]
