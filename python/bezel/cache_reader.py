"""Reads what cache_file.py wrote; the file is untrusted input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch

from bezel import _C
from bezel.cache_file import KIND, SCHEMA
from bezel.cache_values import SPEC_FIELDS, Origin, axes_of, is_batched
from bezel.errors import ModelMismatchError, StoreError
from bezel.model import Model

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
        file = _C.SealedFile(path, "a cache that bezel wrote", "Save the cache again")
        origin, has_batch_dim = _meta(path, file)
        values = []
        for name in file.members("/acts"):
            value = file.tensor(f"/acts/{name}")
            _check_axes(file, name, value, has_batch_dim)
            values.append((name, value))
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON
        raise StoreError(f"{path} is not a cache that bezel wrote: {error}") from error
    return Loaded(values, origin, has_batch_dim)


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


def _meta(path: Path, file: _C.SealedFile) -> tuple[Origin, bool]:
    kind, schema = file.text("/meta", "kind"), file.integer("/meta", "schema")
    if kind != KIND:
        raise StoreError(f"{path} is a {kind}; wanted a {KIND}")
    if schema != SCHEMA:
        raise StoreError(f"{path} has schema {schema}; this version of bezel reads {SCHEMA}")
    spec = json.loads(file.text("/meta", "model"))
    right = isinstance(spec, dict) and set(spec) == set(SPEC_FIELDS)
    right = right and all(type(spec[k]) is (str if k == "family" else int) for k in SPEC_FIELDS)
    if not right or not 0 < spec["n_layers"] <= _MAX_LAYERS:
        raise StoreError(f"{path}: /meta says of the model {spec!r}; wanted {SPEC_FIELDS}")
    dtype = file.text("/meta", "dtype")
    if dtype not in _RUN_DTYPES:
        raise StoreError(f"{path}: the run's dtype is {dtype!r}; wanted {list(_RUN_DTYPES)}")
    return Origin(spec, _RUN_DTYPES[dtype]), bool(file.integer("/meta", "has_batch_dim"))


def _check_axes(file: _C.SealedFile, name: str, value: torch.Tensor, has_batch_dim: bool) -> None:
    axes, stored = axes_of(name), tuple(file.axes(f"/acts/{name}"))
    if len(stored) != value.ndim or (axes is not None and axes != stored):
        want = list(axes) if axes is not None else f"{value.ndim} labels"
        raise StoreError(f'{file.path}: the axes of "{name}" are {list(stored)}; wanted {want}')
    if not has_batch_dim and is_batched(name) and value.shape[:1] != (1,):
        raise StoreError(
            f'{file.path}: "{name}" has {value.shape[0] if value.ndim else 0} rows in a cache '
            "whose batch axis was removed; wanted 1"
        )
