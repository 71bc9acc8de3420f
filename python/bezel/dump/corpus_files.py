"""Where a corpus lies: files of ids, lines and datasets → ids, or documents one after the other."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from bezel.errors import ArgumentError

Ids: TypeAlias = npt.NDArray[Any]


class Flat(NamedTuple):
    """Ids [token] of all documents, and where each ends."""

    ids: Ids
    ends: npt.NDArray[np.int64]


def of_path(path: Path) -> Flat | Iterable[Any]:
    """Ids, or documents that are texts, ids or fields. Raises ArgumentError for what is neither."""
    if path.is_dir():
        return _dataset(path)
    readers: dict[str, Callable[[Path], Any]] = {
        ".npy": _npy, ".npz": _npz, ".jsonl": JsonLines, ".txt": _lines,
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
        return of_array(np.load(path, mmap_mode="r", allow_pickle=False), None, str(path))
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
    return of_array(found["tokens"], found.get("lengths"), str(path))


def of_array(array: Ids, lengths: Ids | None, what: str) -> Flat:
    """[document pos], of which lengths are used; or [token], cut by lengths.

    Raises:
        ArgumentError: For what is neither; it begins with `what`.
    """
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


class JsonLines(Sequence[Any]):
    """The documents of a file, a line each; empty lines are none."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[Any]:
        for place, number, line in self._lines():
            del place
            yield self._parsed(line, number)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, document: Any) -> Any:
        """For documents with media, which are read twice."""
        place, number = self._places[document]
        with self._path.open("rb") as file:
            file.seek(place)
            return self._parsed(file.readline(), number)

    @functools.cached_property
    def _places(self) -> list[tuple[int, int]]:
        return [(place, number) for place, number, _ in self._lines()]

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        """Where each document begins, and the number of its line."""
        place = 0
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield place, number, line
                place += len(line)

    def _parsed(self, line: bytes, number: int) -> Any:
        try:
            return json.loads(line)
        except ValueError as error:
            raise ArgumentError(f"{self._path}, line {number}: is not JSON: {error}") from error


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
