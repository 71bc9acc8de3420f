"""Reads what cache_file.py wrote; the file is untrusted input."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import torch
from h5py import h5d, h5s

from bezel.cache_file import KIND, MAGIC, SCHEMA, TRAILER_BYTES, TYPES, content_hash
from bezel.cache_values import SPEC_FIELDS, Origin, axes_of, is_batched
from bezel.errors import ModelMismatchError, StoreError
from bezel.model import Model

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_RUN_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
_MAX_LAYERS = 10_000  # no model has as many


class Loaded(NamedTuple):
    """What a file holds."""

    values: list[tuple[str, torch.Tensor]]
    origin: Origin
    has_batch_dim: bool


def load(path: Path) -> Loaded:
    """The values, each with its batch axis. Raises StoreError for all but a whole, own file."""
    try:
        with path.open("rb") as file:
            check_seal(path, file)
            try:
                with h5py.File(path, "r") as opened:
                    return _read(path, opened, file)
            except StoreError:
                raise
            except (KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
                raise StoreError(f"{path} is not a cache that bezel wrote: {error}") from error
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{path} could not be read: {error}") from error


def check_seal(path: Path, file: BinaryIO) -> None:
    """Raises StoreError unless the trailer is there and says what the bytes before it are."""
    end = file.seek(0, os.SEEK_END) - TRAILER_BYTES
    file.seek(0)
    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        raise StoreError(f"{path} is no HDF5 file; wanted one that ActivationCache.save wrote")
    file.seek(max(end, 0))
    trailer = file.read(TRAILER_BYTES)
    if end < len(_SIGNATURE) or not trailer.startswith(MAGIC):
        raise StoreError(
            f"{path} does not end with bezel's trailer: it was cut short, or another program wrote "
            "it. Save the cache again"
        )
    found = content_hash(file, end)
    if found != trailer[len(MAGIC) :]:
        raise StoreError(
            f"{path} is damaged: the XXH3-128 of its bytes is {found.hex()}, its trailer says "
            f"{trailer[len(MAGIC) :].hex()}. Save the cache again, or copy it again"
        )


def check_model(path: Path, loaded: Loaded, model: Model) -> None:
    """Raises ModelMismatchError where the values cannot be this model's."""
    own = Origin.of(model).spec
    differing = [key for key in SPEC_FIELDS if own[key] != loaded.origin.spec[key]]
    if differing:
        told = ", ".join(
            f"{key} {loaded.origin.spec[key]} (model: {own[key]})" for key in differing
        )
        raise ModelMismatchError(f"{path} holds values of another model: {told}")
    shapes = {point.name: point.shape for point in model.hook_points()}
    for name, value in loaded.values:
        if axes_of(name) is None:
            continue
        want = shapes.get(name.removesuffix("_grad"))
        if want is None or any(w not in (None, g) for w, g in zip(want, value.shape, strict=True)):
            told = "has no such value" if want is None else f"wants {list(want)} there"
            raise ModelMismatchError(
                f'{path} holds values of another model: "{name}" is {list(value.shape)}; this '
                f"model {told}"
            )


def _read(path: Path, file: Any, raw: BinaryIO) -> Loaded:
    origin, has_batch_dim = _meta(path, file)
    acts = file["acts"]
    limit = os.fstat(raw.fileno()).st_size
    tensors: dict[int, torch.Tensor] = {}  # by place: two links to one dataset share a tensor
    values = []
    for name in acts:
        if not isinstance(acts.get(name, getlink=True), h5py.HardLink):
            raise StoreError(f'{path}: "{name}" is a link to elsewhere; wanted the value itself')
        dataset = acts[name]
        if not isinstance(dataset, h5py.Dataset):
            raise StoreError(f'{path}: "{name}" is a {type(dataset).__name__}; wanted a dataset')
        dtype = _checked_dtype(path, name, dataset)
        place = h5py.h5o.get_info(dataset.id).addr
        if place not in tensors:
            tensors[place], limit = _tensor(path, name, dataset, dtype, raw, limit)
        value = tensors[place]
        _check_axes(path, name, dataset, value, has_batch_dim)
        values.append((name, value))
    return Loaded(values, origin, has_batch_dim)


def _meta(path: Path, file: Any) -> tuple[Origin, bool]:
    meta = file["meta"].attrs
    kind = _text(meta["kind"])
    if kind != KIND:
        raise StoreError(f"{path} is a {kind}; wanted a {KIND}")
    if int(meta["schema"]) != SCHEMA:
        raise StoreError(
            f"{path} has schema {int(meta['schema'])}; this version of bezel reads {SCHEMA}"
        )
    spec = json.loads(_text(meta["model"]))
    right = isinstance(spec, dict) and set(spec) == set(SPEC_FIELDS)
    right = right and all(type(spec[k]) is (str if k == "family" else int) for k in SPEC_FIELDS)
    if not right or not 0 < spec["n_layers"] <= _MAX_LAYERS:
        raise StoreError(f"{path}: /meta says of the model {spec!r}; wanted {SPEC_FIELDS}")
    dtype = _text(meta["dtype"])
    if dtype not in _RUN_DTYPES:
        raise StoreError(f"{path}: the run's dtype is {dtype!r}; wanted {list(_RUN_DTYPES)}")
    return Origin(spec, _RUN_DTYPES[dtype]), bool(int(meta["has_batch_dim"]))


def _text(attribute: Any) -> str:
    return attribute.decode() if isinstance(attribute, bytes) else str(attribute)


def _checked_dtype(path: Path, name: str, dataset: Any) -> torch.dtype:
    plist = dataset.id.get_create_plist()
    simple = plist.get_layout() == h5d.CONTIGUOUS and plist.get_external_count() == 0
    space = dataset.id.get_space().get_simple_extent_type()
    if not simple or space not in (h5s.SIMPLE, h5s.SCALAR):
        raise StoreError(f'{path}: "{name}" is stored in pieces or elsewhere; wanted it contiguous')
    stored = dataset.id.get_type()
    for dtype, kind in TYPES.items():
        if stored.equal(kind):
            says_bfloat16 = _text(dataset.attrs.get("dtype", "")) == "bfloat16"
            if says_bfloat16 == (dtype == torch.bfloat16):
                return dtype
    raise StoreError(f'{path}: the type of "{name}" is none that a saved cache holds')


def _tensor(
    path: Path, name: str, dataset: Any, dtype: torch.dtype, raw: BinaryIO, limit: int
) -> tuple[torch.Tensor, int]:
    """The value, and what is left of the limit: together they are no larger than the file."""
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


def _check_axes(
    path: Path, name: str, dataset: Any, value: torch.Tensor, has_batch_dim: bool
) -> None:
    axes = axes_of(name)
    stored = tuple(str(label) for label in dataset.attrs.get("DIMENSION_LABELS", ()))
    if len(stored) != value.ndim or (axes is not None and axes != stored):
        want = list(axes) if axes is not None else f"{value.ndim} labels"
        raise StoreError(f'{path}: the axes of "{name}" are {list(stored)}; wanted {want}')
    if not has_batch_dim and is_batched(name) and value.shape[:1] != (1,):
        raise StoreError(
            f'{path}: "{name}" has {value.shape[0] if value.ndim else 0} rows in a cache whose '
            "batch axis was removed; wanted 1"
        )
