"""Opens what sealed_file.py wrote, and takes values out of it; the file is untrusted input."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import torch
from h5py import h5d, h5s

from bezel.errors import StoreError
from bezel.sealed_file import MAGIC, SIGNATURE, TRAILER_BYTES, TYPES, content_hash


@contextlib.contextmanager
def opened(path: Path, wanted: str, remedy: str) -> Iterator[tuple[Any, BinaryIO]]:
    """The file as HDF5 and as bytes, after its trailer was compared.

    Args:
        path: The file.
        wanted: What it should be, for messages: "a cache that bezel wrote".
        remedy: What to do about a damaged one: "Save the cache again".

    Raises:
        StoreError: For all that goes wrong here or in the block.
    """
    try:
        with path.open("rb") as raw:
            _check_seal(path, raw, wanted, remedy)
            try:
                with h5py.File(path, "r") as file:
                    yield file, raw
            except StoreError:
                raise
            except (KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
                raise StoreError(f"{path} is not {wanted}: {error}") from error
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{path} could not be read: {error}") from error


def _check_seal(path: Path, file: BinaryIO, wanted: str, remedy: str) -> None:
    """Raises StoreError unless the trailer is there and says what the bytes before it are."""
    end = file.seek(0, os.SEEK_END) - TRAILER_BYTES
    file.seek(0)
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise StoreError(f"{path} is no HDF5 file; wanted {wanted}")
    file.seek(max(end, 0))
    trailer = file.read(TRAILER_BYTES)
    if end < len(SIGNATURE) or not trailer.startswith(MAGIC):
        raise StoreError(
            f"{path} does not end with bezel's trailer: it was cut short, or another program wrote "
            f"it. {remedy}"
        )
    found = content_hash(file, end)
    if found != trailer[len(MAGIC) :]:
        raise StoreError(
            f"{path} is damaged: the XXH3-128 of its bytes is {found.hex()}, its trailer says "
            f"{trailer[len(MAGIC) :].hex()}. {remedy}, or copy it again"
        )


def text_of(attribute: Any) -> str:
    """An attribute's text, of fixed or variable length."""
    return attribute.decode() if isinstance(attribute, bytes) else str(attribute)


def checked_dtype(path: Path, name: str, dataset: Any) -> torch.dtype:
    """The dtype of a dataset that lies in one piece inside the file; StoreError for others."""
    plist = dataset.id.get_create_plist()
    simple = plist.get_layout() == h5d.CONTIGUOUS and plist.get_external_count() == 0
    space = dataset.id.get_space().get_simple_extent_type()
    if not simple or space not in (h5s.SIMPLE, h5s.SCALAR):
        raise StoreError(f'{path}: "{name}" is stored in pieces or elsewhere; wanted it contiguous')
    stored = dataset.id.get_type()
    for dtype, kind in TYPES.items():
        if stored.equal(kind):
            says_bfloat16 = text_of(dataset.attrs.get("dtype", "")) == "bfloat16"
            if says_bfloat16 == (dtype == torch.bfloat16):
                return dtype
    raise StoreError(f'{path}: the type of "{name}" is none that a saved cache holds')


def read_tensor(
    path: Path, name: str, dataset: Any, raw: BinaryIO, limit: int
) -> tuple[torch.Tensor, int]:
    """The value, and what is left of the limit: together they are no larger than the file."""
    dtype = checked_dtype(path, name, dataset)
    shape = [int(size) for size in dataset.shape]
    n_bytes = dtype.itemsize
    for size in shape:
        n_bytes *= size
    offset = dataset.id.get_offset()
    if n_bytes == 0:
        return torch.empty(shape, dtype=dtype), limit
    if offset is None or n_bytes > limit or offset + n_bytes > os.fstat(raw.fileno()).st_size:
        raise StoreError(f'{path}: "{name}" is {shape}, {n_bytes} bytes: more than the file has')
    value = torch.empty(shape, dtype=dtype)
    target = value.flatten().view(torch.uint8).numpy().data
    raw.seek(offset)
    if raw.readinto(target) != n_bytes:  # type: ignore[attr-defined]
        raise StoreError(f'{path}: "{name}" ends before its {n_bytes} bytes')
    return value, limit - n_bytes
