"""What a reference knows of a checkpoint's files: settings, tensors, and their fingerprint."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
import xxhash

from bezel.errors import FormatError, ModelMismatchError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_INDEX = "model.safetensors.index.json"
_WHOLE = "model.safetensors"
_HEADER_LIMIT_BYTES = 100_000_000  # of the safetensors format
_CHUNK_BYTES = 1 << 24


class StoredTensor(NamedTuple):
    """Where a tensor lies, and as what; begin and end are bytes of the file."""

    file: Path
    dtype: str  # safetensors' word: "F32", "BF16" …
    shape: tuple[int, ...]
    begin: int
    end: int


class Fingerprint(NamedTuple):
    """Of one tensor; hash is XXH3-64 of its stored bytes."""

    name: str
    hash: int
    dtype: str
    shape: str


class Checkpoint:
    """A folder with config.json and safetensors files; reads headers when made, values when asked.

    Attributes:
        folder: Where it lies.
        config: config.json.
        config_text: The same as it stands in the file.
        generation_text: generation_config.json as it stands, or "".
        tensors: By name.
    """

    def __init__(self, folder: Path) -> None:
        """Raises FormatError for what cannot be read."""
        self.folder = folder
        self.config_text = _text_of(folder / "config.json")
        self.config = _object(folder / "config.json", self.config_text)
        generation = folder / "generation_config.json"
        self.generation_text = _text_of(generation) if generation.exists() else ""
        self.generation = _object(generation, self.generation_text or "{}")
        self.tensors: dict[str, StoredTensor] = {}
        for file in _files(folder):
            for name, tensor in _header(file):
                if name in self.tensors:
                    raise FormatError(
                        f'{file}: "{name}" stands in {self.tensors[name].file.name} too; wanted it '
                        "once. Remove files that no index names"
                    )
                self.tensors[name] = tensor

    @property
    def n_bytes(self) -> int:
        """Of all tensors as stored."""
        return sum(tensor.end - tensor.begin for tensor in self.tensors.values())

    @property
    def is_bfloat16(self) -> bool:
        """True when rounding to bfloat16 changes no weight."""
        return {t.dtype for t in self.tensors.values() if t.dtype in DTYPES} <= {"BF16"}

    @property
    def text(self) -> dict[str, Any]:
        """The text model's fields of the config."""
        part: dict[str, Any] = self.config.get("text_config") or self.config
        return part

    @property
    def eos_ids(self) -> list[int]:
        """All of generation_config.json, else of config.json."""
        found = self._generation_field("eos_token_id")
        return found if isinstance(found, list) else [found] if isinstance(found, int) else []

    @property
    def pad_id(self) -> int:
        """As the eos ids; 0 where no file names one."""
        found = self._generation_field("pad_token_id")
        return found if isinstance(found, int) else 0

    def _generation_field(self, field: str) -> Any:
        for place in (self.generation, self.config, self.text):
            if place.get(field) not in (None, []):
                return place[field]
        return None

    def text_prefix(self) -> str:
        """What stands before "embed_tokens.weight" and "layers.0." in the tensors' names."""
        tail = "embed_tokens.weight"
        found = [n[: -len(tail)] for n in self.tensors if n == tail or n.endswith("." + tail)]
        if len(found) != 1:
            raise ModelMismatchError(
                f"{self.folder}: {len(found)} tensors are called {tail}; wanted 1, the text model's"
            )
        return found[0]

    def read(self, name: str, rows: slice | list[int] | None = None) -> torch.Tensor:
        """A tensor as stored, or rows of its first axis."""
        from safetensors import safe_open

        with safe_open(self.wanted(name).file, framework="pt") as file:
            if rows is None:
                whole: torch.Tensor = file.get_tensor(name)
                return whole
            stored = file.get_slice(name)
            if isinstance(rows, list):
                return torch.cat([stored[i : i + 1] for i in rows])
            part: torch.Tensor = stored[rows]
            return part

    def wanted(self, name: str) -> StoredTensor:
        """Where the tensor lies; raises ModelMismatchError without it."""
        if name not in self.tensors:
            raise ModelMismatchError(f"{self.folder}: the tensor {name} is missing")
        return self.tensors[name]

    def fingerprints(self) -> list[Fingerprint]:
        """Of every tensor, by name."""
        found = []
        for name, tensor in sorted(self.tensors.items()):
            with tensor.file.open("rb") as file:
                digest = _hash(file, tensor)
            shape = " ".join(map(str, tensor.shape))
            found.append(Fingerprint(name, digest, tensor.dtype, shape))
        return found


def _hash(file: BinaryIO, tensor: StoredTensor) -> int:
    hasher, left = xxhash.xxh3_64(), tensor.end - tensor.begin
    file.seek(tensor.begin)
    while left:
        chunk = file.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise FormatError(f"{tensor.file} became shorter while it was read")
        hasher.update(chunk)
        left -= len(chunk)
    return hasher.intdigest()


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} could not be read: {error}") from error


def _object(path: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise FormatError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path} holds a {type(value).__name__}; wanted an object")
    return value


def _files(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if not index.exists():
        return [folder / _WHOLE]
    names = set(_object(index, _text_of(index)).get("weight_map", {}).values())
    foreign = [name for name in names if Path(name).name != name]
    if foreign or not names:
        raise FormatError(f"{index} names {foreign or 'no files'}; wanted plain file names")
    return [folder / name for name in sorted(names)]


def _header(file: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Eight bytes of length, JSON, then the values."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            size = file.stat().st_size
            if not 0 < length <= min(size - 8, _HEADER_LIMIT_BYTES):
                raise FormatError(f"{file}: a header of {length} bytes in a file of {size}")
            header = _object(file, opened.read(length).decode())
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{file} could not be read: {error}") from error
    header.pop("__metadata__", None)
    for name, entry in header.items():
        try:
            begin, end = (8 + length + int(place) for place in entry["data_offsets"])
            shape = tuple(int(n) for n in entry["shape"])
            found = StoredTensor(file, str(entry["dtype"]), shape, begin, end)
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f'{file}: the header\'s entry "{name}" is {entry!r}') from error
        kind = DTYPES.get(found.dtype)
        n_bytes = math.prod(shape) * kind.itemsize if kind else end - begin
        if end > size or end - begin != n_bytes:
            raise FormatError(
                f'{file}: "{name}" has bytes {begin} to {end} of {size}, but {n_bytes} by its shape'
            )
        yield name, found
