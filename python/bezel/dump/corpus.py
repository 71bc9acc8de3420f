"""What a dump reads: token ids of documents, counted and hashed before the first run.

Arrays are read where they lie. Texts and iterators are taken once, into a temporary file of four
bytes a token: how many rows there are, and what they come from, must be known before the first.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from bezel.errors import ArgumentError

Source: TypeAlias = "str | Path | npt.NDArray[Any] | torch.Tensor | Iterable[Any]"
Ids: TypeAlias = npt.NDArray[Any]
_TOKENS_AT_ONCE = 1 << 22  # looked at, hashed
_SECONDS_BEFORE_BAR = 1.0


class Flat(NamedTuple):
    """Ids [token] of all documents, and where each ends."""

    ids: Ids
    ends: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Corpus:
    """Documents, one behind the other.

    Attributes:
        ids: [token], whole numbers below the vocabulary's size.
        ends: int64 [document], where in `ids` each one ends.
        fingerprint: SHA-256 of both.
    """

    ids: Ids
    ends: npt.NDArray[np.int64]
    fingerprint: str

    @property
    def n_tokens(self) -> int:
        """Of all documents."""
        return len(self.ids)

    @functools.cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """int64 [document], where each one begins."""
        return np.concatenate([[0], self.ends[:-1]])


def open_corpus(
    source: Source,
    encode: Callable[[str], Sequence[int]],
    d_vocab: int,
    column: str | None = None,
    verbose: bool = False,
) -> Corpus:
    """Reads or opens a corpus.

    Args:
        source: As `bezel.dump` says.
        encode: A text → token ids.
        d_vocab: Ids are below this.
        column: Of JSON lines and datasets: the field with a text or with ids.
        verbose: Show how many documents were read, where that takes longer.

    Raises:
        ArgumentError: For what is none of these, for ids outside the vocabulary, for no tokens.
    """
    found = _of_path(Path(source)) if isinstance(source, str | Path) else source
    if isinstance(found, np.ndarray | torch.Tensor):
        array = found.cpu().numpy() if isinstance(found, torch.Tensor) else found
        found = _of_array(array, None, "the corpus")
    if not isinstance(found, Flat):
        shown = tqdm(
            found, "reading", unit=" documents", disable=not verbose, delay=_SECONDS_BEFORE_BAR
        )
        found = _spooled(shown, encode, column)
    return Corpus(found.ids, found.ends, _fingerprint(found.ids, found.ends, d_vocab))


def _of_path(path: Path) -> Flat | Iterable[Any]:
    if path.is_dir():
        return _dataset(path)
    readers: dict[str, Callable[[Path], Any]] = {
        ".npy": _npy, ".npz": _npz, ".jsonl": _json_lines, ".txt": _lines,
    }  # fmt: skip
    if not path.exists():
        raise ArgumentError(f"the corpus {path} does not exist")
    if path.suffix not in readers:
        raise ArgumentError(
            f"the corpus is {path}; wanted .npy or .npz (ids), .jsonl, .txt (a text a line) or the "
            "folder of a Hugging Face dataset"
        )
    found: Flat | Iterable[Any] = readers[path.suffix](path)
    return found


def _npy(path: Path) -> Flat:
    try:
        return _of_array(np.load(path, mmap_mode="r", allow_pickle=False), None, str(path))
    except (OSError, ValueError) as error:
        raise ArgumentError(f"the corpus {path} could not be read: {error}") from error


def _npz(path: Path) -> Flat:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise ArgumentError(f"the corpus {path} could not be read: {error}") from error
    if "tokens" not in found:
        raise ArgumentError(
            f'{path} holds {", ".join(found) or "nothing"}; wanted "tokens", and where documents '
            'differ in length "lengths" [document]'
        )
    return _of_array(found["tokens"], found.get("lengths"), str(path))


def _of_array(array: Ids, lengths: Ids | None, what: str) -> Flat:
    """[document pos], of which lengths are used; or [token], cut by lengths."""
    if array.ndim not in (1, 2) or array.dtype.kind not in "iu" or array.size == 0:
        raise ArgumentError(
            f"{what} holds {array.dtype} {list(array.shape)}; wanted ids, integers [document pos]"
        )
    if lengths is not None:
        lengths = _checked_lengths(lengths, array, what)
    if array.ndim == 1:
        used = np.array([array.size]) if lengths is None else lengths
        return Flat(array, np.cumsum(used, dtype=np.int64))
    n, width = array.shape
    used = np.full(n, width) if lengths is None else lengths
    if int(used.min()) == width:
        return Flat(array.reshape(-1), np.cumsum(used, dtype=np.int64))
    ids = np.concatenate([row[:length] for row, length in zip(array, used, strict=True)])
    return Flat(ids, np.cumsum(used, dtype=np.int64))


def _checked_lengths(lengths: Ids, array: Ids, what: str) -> Ids:
    fits = lengths.ndim == 1 and lengths.dtype.kind in "iu" and len(lengths) and lengths.min() >= 0
    if fits and array.ndim == 1:
        fits = int(lengths.sum()) == array.size
    elif fits:
        fits = len(lengths) == len(array) and lengths.max() <= array.shape[1]
    if not fits:
        raise ArgumentError(
            f'{what}: "lengths" are {lengths.dtype} {list(lengths.shape)} beside tokens '
            f"{list(array.shape)}; wanted one for each document, that fit the tokens"
        )
    return lengths.astype(np.int64)


def _json_lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ArgumentError(f"{path}, line {number}: is not JSON: {error}") from error


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        yield from (line.rstrip("\n") for line in lines if line.strip())


def _dataset(path: Path) -> Iterable[Any]:
    """A folder that `save_to_disk` of Hugging Face datasets wrote."""
    try:
        import datasets
    except ImportError:
        raise ArgumentError(
            f"the corpus {path} is a folder; to read Hugging Face datasets, "
            "pip install 'bezel[datasets]'"
        ) from None
    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise ArgumentError(f"the corpus {path} could not be read: {error}") from error
    if isinstance(found, datasets.DatasetDict):
        raise ArgumentError(f"{path} holds the splits {', '.join(found)}; give the folder of one")
    rows: Iterable[Any] = found
    return rows


def _spooled(
    documents: Iterable[Any], encode: Callable[[str], Sequence[int]], column: str | None
) -> Flat:
    ends: list[int] = []
    n_tokens = 0
    with tempfile.TemporaryFile(prefix="bezel-corpus-") as file:
        for number, document in enumerate(documents):
            ids = np.asarray(_ids_of(document, number, encode, column), dtype="<i4")
            n_tokens += len(ids)
            ends.append(n_tokens)
            file.write(ids.tobytes())
        file.flush()
        if not n_tokens:
            raise ArgumentError("the corpus has no tokens")
        # The mapping outlives the name and the file object.
        return Flat(np.memmap(file, dtype="<i4", mode="r"), np.array(ends, dtype=np.int64))


def _ids_of(
    document: Any, number: int, encode: Callable[[str], Sequence[int]], column: str | None
) -> Any:
    found = _field_of(document, number, column) if isinstance(document, dict) else document
    if isinstance(found, str):
        return encode(found)
    ids = found.cpu().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    if ids.ndim != 1 or (ids.dtype.kind not in "iu" and ids.size):
        raise ArgumentError(
            f"document {number} of the corpus is {type(found).__name__}; wanted a text, or ids "
            "[pos]"
        )
    if ids.size and (int(ids.min()) < -(2**31) or int(ids.max()) >= 2**31):
        raise ArgumentError(f"document {number} of the corpus has ids beyond 32 bits")
    return ids


def _field_of(document: dict[str, Any], number: int, column: str | None) -> Any:
    for name in (column,) if column else ("text", "tokens", "input_ids"):
        if name in document:
            return document[name]
    wanted = f'"{column}"' if column else '"text", "tokens" or "input_ids"'
    raise ArgumentError(
        f"document {number} of the corpus has {', '.join(map(repr, document)) or 'no fields'}; "
        f"wanted {wanted}; name another with column="
    )


def _fingerprint(ids: Ids, ends: npt.NDArray[np.int64], d_vocab: int) -> str:
    digest = hashlib.sha256(ends.astype("<i8").tobytes())
    for begin in range(0, len(ids), _TOKENS_AT_ONCE):
        part = ids[begin : begin + _TOKENS_AT_ONCE]
        lowest, highest = int(part.min()), int(part.max())
        if lowest < 0 or highest >= d_vocab:
            raise ArgumentError(
                f"the corpus has ids from {lowest} to {highest}; the vocabulary has 0 to "
                f"{d_vocab - 1}"
            )
        digest.update(part.astype("<i4").tobytes())
    return digest.hexdigest()
