"""HDF5 files that bezel writes whole: values in full, and a trailer that seals them.

    inside              contiguous datasets without filters, little-endian; DIMENSION_LABELS has the
                        axis words; attribute dtype = "bfloat16" where it is (floats of 1-8-7)
    behind HDF5's end   "bezel" and the XXH3-128 (16 bytes, canonical order) of all bytes before

The trailer is compared before HDF5 opens the file. It shows accidents, not malice: HDF5's own
reader is as safe as libhdf5 is. Nothing in such a file is random or a time: equal contents are
equal bytes.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import torch
import xxhash
from h5py import h5d, h5p, h5s, h5t

from bezel.errors import StoreError

MAGIC = b"bezel"
TRAILER_BYTES = len(MAGIC) + 16
SIGNATURE = b"\x89HDF\r\n\x1a\n"
_CHUNK_BYTES = 1 << 24  # read at once while hashing
_ALIGN_BYTES = 4096  # of values in the file
_ALIGN_FROM_BYTES = 1 << 16  # smaller ones stand close together
Places = list[tuple[int, torch.Tensor]]  # where in the file each value's bytes go


def _bfloat16() -> Any:
    kind = h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)  # sign at 15, 8 bits of exponent from 7, 7 bits of mantissa
    kind.set_size(2)
    kind.set_ebias(127)
    return kind


TYPES = {
    torch.float32: h5t.IEEE_F32LE,
    torch.float64: h5t.IEEE_F64LE,
    torch.bfloat16: _bfloat16(),
    torch.float16: h5t.IEEE_F16LE,
    torch.int64: h5t.STD_I64LE,
    torch.int32: h5t.STD_I32LE,
    torch.int16: h5t.STD_I16LE,
    torch.int8: h5t.STD_I8LE,
    torch.uint8: h5t.STD_U8LE,
}


def write(path: Path, skeleton: Callable[[Any], Places]) -> None:
    """Writes the file under another name and renames it: a reader sees the old one or all of it.

    Args:
        path: The file's name; one of that name is replaced.
        skeleton: Makes groups, attributes and datasets in the open HDF5 file it is given, and
            returns where the bytes of each value belong.

    Raises:
        StoreError: The file could not be written; nothing is left behind.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        _fill_and_seal(partial, _write_skeleton(partial, skeleton))
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{path} could not be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _write_skeleton(path: Path, skeleton: Callable[[Any], Places]) -> Places:
    """Everything but the values' bytes."""
    with h5py.File(
        path,
        "w",
        libver=("v110", "v110"),
        alignment_threshold=_ALIGN_FROM_BYTES,
        alignment_interval=_ALIGN_BYTES,
    ) as file:
        return skeleton(file)


def create(group: Any, name: str, value: torch.Tensor, axes: Sequence[str]) -> int:
    """Makes the value's dataset without its bytes; returns where in the file they go."""
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_layout(h5d.CONTIGUOUS)
    plist.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)  # equal contents are equal bytes
    space = h5s.create_simple(tuple(value.shape)) if value.ndim else h5s.create(h5s.SCALAR)
    made = h5d.create(group.id, name.encode(), TYPES[value.dtype], space, plist)
    attributes = h5py.Dataset(made).attrs
    if value.ndim:
        # Variable-length on purpose: with fixed-length ones h5py's dims[i].label crashes.
        attributes.create("DIMENSION_LABELS", list(axes), dtype=h5py.string_dtype())
    if value.dtype == torch.bfloat16:
        attributes["dtype"] = np.bytes_(b"bfloat16")
    offset = made.get_offset()
    return 0 if offset is None else int(offset)


def _fill_and_seal(path: Path, places: Places) -> None:
    with path.open("r+b") as file:
        for offset, value in places:
            flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            file.seek(offset)
            file.write(flat.numpy().data)
        end = file.seek(0, os.SEEK_END)
        file.write(MAGIC + content_hash(file, end))
        file.flush()
        os.fsync(file.fileno())


def content_hash(file: BinaryIO, n_bytes: int) -> bytes:
    """XXH3-128 of the first bytes; leaves the file behind them."""
    hasher = xxhash.xxh3_128()
    file.seek(0)
    while n_bytes > 0:
        chunk = file.read(min(n_bytes, _CHUNK_BYTES))
        if not chunk:
            raise StoreError("the file became shorter while it was read")
        hasher.update(chunk)
        n_bytes -= len(chunk)
    return hasher.digest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
