"""A saved cache: one sealed HDF5 file (hooks/store/README.md) that any HDF5 tool reads.

/acts/<hook name>   the value in full axes; two names of one value are two links to one dataset
/meta               attributes: kind, schema, bezel, model (JSON), dtype, has_batch_dim
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from bezel import _C
from bezel.cache_values import Origin, axes_of
from bezel.errors import ArgumentError

KIND = "bezel.ActivationCache"
SCHEMA = 1
_DTYPES = (
    torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8,
)  # fmt: skip


def save(
    path: Path, values: Iterable[tuple[str, torch.Tensor]], origin: Origin, has_batch_dim: bool
) -> None:
    """Writes the file whole, or leaves what was there."""
    meta: dict[str, _C.Attribute] = {
        "kind": KIND,
        "bezel": _C.__version__,
        "model": json.dumps(origin.spec, sort_keys=True),
        "dtype": str(origin.dtype).removeprefix("torch."),
        "schema": SCHEMA,
        "has_batch_dim": has_batch_dim,
    }
    file = _C.Sealing()
    file.group("/meta", meta)
    file.group("/acts", keeps_order=True)
    owners: dict[Any, str] = {}  # the name that a value stands under already
    for name, value in values:
        _check(name, value)
        axes = axes_of(name) or ("",) * value.ndim
        identity = (value.data_ptr(), value.shape, value.stride(), value.dtype, axes)
        if value.numel() and identity in owners:
            file.link(f"/acts/{name}", f"/acts/{owners[identity]}")
            continue
        owners[identity] = name
        file.values(f"/acts/{name}", value, axes)
    file.write(path)


def _check(name: str, value: torch.Tensor) -> None:
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise ArgumentError(f"{name!r} cannot be the name of a dataset; wanted no slash in it")
    if value.dtype not in _DTYPES:
        kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
        raise ArgumentError(f'"{name}" is {value.dtype}; a saved cache holds {kinds}')
