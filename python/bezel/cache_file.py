"""A saved cache: one HDF5 file that any HDF5 tool reads, sealed as sealed_file.py says.

/acts/<hook name>   the value in full axes; two names of one value are two links to one dataset
/meta               attributes: kind, schema, bezel, model (JSON), dtype, has_batch_dim
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bezel import _C, sealed_file
from bezel.cache_values import Origin, axes_of
from bezel.errors import ArgumentError
from bezel.sealed_file import TYPES, Places

KIND = "bezel.ActivationCache"
SCHEMA = 1


def save(
    path: Path, values: Iterable[tuple[str, torch.Tensor]], origin: Origin, has_batch_dim: bool
) -> None:
    """Writes the file whole, or leaves what was there."""
    named = list(values)
    for name, value in named:
        if not name or "/" in name or "\0" in name or name in (".", ".."):
            raise ArgumentError(f"{name!r} cannot be the name of a dataset; wanted no slash in it")
        if value.dtype not in TYPES:
            kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in TYPES)
            raise ArgumentError(f'"{name}" is {value.dtype}; a saved cache holds {kinds}')
    sealed_file.write(path, lambda file: _skeleton(file, named, origin, has_batch_dim))


def _skeleton(
    file: Any, values: list[tuple[str, torch.Tensor]], origin: Origin, has_batch_dim: bool
) -> Places:
    places = []
    owners: dict[Any, str] = {}  # the name that a value stands under already
    meta = file.create_group("meta").attrs
    facts = {
        "kind": KIND,
        "bezel": _C.__version__,
        "model": json.dumps(origin.spec, sort_keys=True),
        "dtype": str(origin.dtype).removeprefix("torch."),
    }
    for key, text in facts.items():
        meta[key] = np.bytes_(text.encode())
    meta["schema"], meta["has_batch_dim"] = np.int64(SCHEMA), np.int8(has_batch_dim)
    acts = file.create_group("acts", track_order=True)
    for name, value in values:
        axes = axes_of(name) or ("",) * value.ndim
        identity = (value.data_ptr(), value.shape, value.stride(), value.dtype, axes)
        if value.numel() and identity in owners:
            acts[name] = acts[owners[identity]]
            continue
        owners[identity] = name
        offset = sealed_file.create(acts, name, value, axes)
        if value.numel():
            places.append((offset, value))
    return places
