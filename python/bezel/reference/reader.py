"""Reads what writer.py wrote; the file is untrusted input."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from bezel import _C
from bezel.cache_values import axes_of
from bezel.errors import StoreError
from bezel.reference.bundle import KIND, SCHEMA, Bundle, Outcome
from bezel.reference.cases import Case
from bezel.reference.checkpoint import Fingerprint
from bezel.reference.greedy import Greedy
from bezel.reference.judging import Bfloat16, Logits
from bezel.reference.padding import Masks
from bezel.reference.sampling import QUERY_AXES, Kept
from bezel.reference.writer import MEDIA_AXES

_REMEDY = "Capture the reference again"


def read(path: Path) -> Bundle:
    """The bundle. Raises StoreError for all but a whole, own file."""
    try:
        file = _C.SealedFile(path, "a reference that bezel wrote", _REMEDY)
        _check_kind(file)
        return _bundle(file)
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        raise StoreError(f"{path} is not a reference that bezel wrote: {error}") from error


def _bundle(file: _C.SealedFile) -> Bundle:
    return Bundle(
        config=file.text("/meta", "config"),
        generation_config=file.text("/meta", "generation_config"),
        versions=dict(json.loads(file.text("/meta", "versions"))),
        device=file.text("/meta", "device"),
        weights=_weights(file),
        outcomes={name: _outcome(file, name) for name in file.members("/cases")},
    )


def _check_kind(file: _C.SealedFile) -> None:
    kind, schema = file.text("/meta", "kind"), file.integer("/meta", "schema")
    if kind != KIND:
        raise StoreError(f"{file.path} is a {kind}; wanted a {KIND}. {_REMEDY}")
    if schema != SCHEMA:
        raise StoreError(
            f"{file.path} has schema {schema}; this version of bezel reads {SCHEMA}. "
            f"{_REMEDY} with it"
        )


def _weights(file: _C.SealedFile) -> list[Fingerprint]:
    names, dtypes, shapes = (file.texts(f"/weights/{key}") for key in ("name", "dtype", "shape"))
    hashes = _take(file, "/weights/hash", (None,)).tolist()
    lengths = {len(names), len(dtypes), len(shapes), len(hashes)}
    if len(lengths) != 1 or names != sorted(set(names)):
        raise StoreError(
            f"{file.path}: /weights has {sorted(lengths)} entries; wanted one list, sorted by name"
        )
    return [Fingerprint(*row) for row in zip(names, hashes, dtypes, shapes, strict=True)]


def _take(file: _C.SealedFile, name: str, shape: tuple[int | None, ...]) -> torch.Tensor:
    """A dataset of this shape, which the tokens give; None is any size."""
    value = file.tensor(name)
    if len(shape) != value.ndim or any(
        w not in (None, g) for w, g in zip(shape, value.shape, strict=True)
    ):
        want = ["any" if size is None else size for size in shape]
        raise StoreError(f"{file.path}: {name} is {list(value.shape)}; wanted {want}. {_REMEDY}")
    return value


def _act(file: _C.SealedFile, place: str, name: str, sizes: dict[str, int]) -> Kept:
    """A value under /acts."""
    full = f"{place}/acts/{name}"
    attributes = file.attributes(full)
    positions, dims = (_indices(attributes, key) for key in ("positions", "dims"))
    if (positions is None) != (dims is None):
        raise StoreError(
            f"{file.path}: {full} has one of positions and dims; wanted both, or neither"
        )
    axes = axes_of(name)
    if axes is None:
        raise StoreError(f"{file.path}: {full} is no name of the hook table")
    if positions is not None:
        sizes = sizes | dict.fromkeys(QUERY_AXES, len(positions))
    shape = [sizes.get(axis) for axis in axes]
    if dims is not None:
        shape[-1] = len(dims)
    value = _take(file, full, tuple(shape))
    if tuple(file.axes(full)) != axes:
        raise StoreError(
            f"{file.path}: the axes of {full} are {file.axes(full)}; wanted {list(axes)}"
        )
    norm, total = (float(attributes.get(key, 0.0)) for key in ("norm", "sum"))
    return Kept(value, positions, dims, norm, total)


def _indices(attributes: dict[str, _C.Attribute], key: str) -> torch.Tensor | None:
    return torch.tensor(attributes[key], dtype=torch.int64) if key in attributes else None


def _outcome(file: _C.SealedFile, name: str) -> Outcome:
    place = f"/cases/{name}"

    def take(what: str, *shape: int | None) -> torch.Tensor:
        return _take(file, f"{place}/{what}", shape)

    tokens = take("tokens", None, None)
    batch, length = tokens.shape
    sizes = {"batch": batch, "pos": length, "q_pos": length, "k_pos": length}
    n_top = file.tensor(f"{place}/logits/top_ids").shape[-1]
    positions = take("logits/positions", None)
    new = take("greedy/tokens", batch, None)
    return Outcome(
        Case(
            name,
            file.text(place, "about"),
            tokens,
            take("attention_mask", batch, length),
            file.text(place, "phase"),
            _media(file, f"{place}/media"),
            _masks(file, f"{place}/valid"),
        ),
        {key: _act(file, place, key, sizes) for key in file.members(f"{place}/acts")},
        Logits(
            take("logits/top_ids", batch, length, n_top),
            take("logits/top_values", batch, length, n_top),
            take("logits/log_sum_exp", batch, length),
            positions,
            take("logits/full", batch, len(positions), None),
        ),
        float(take("loss")),
        take("loss_per_token", batch, length - 1),
        _bfloat16(file, f"{place}/bfloat16"),
        _bfloat16(file, f"{place}/bfloat16/stored"),
        Greedy(new, take("greedy/gap", *new.shape)),
    )


def _media(file: _C.SealedFile, place: str) -> dict[str, torch.Tensor]:
    found = {}
    for name in file.members(place):
        if name not in MEDIA_AXES:
            raise StoreError(
                f"{file.path}: {place}/{name} is no argument of a run; wanted one of "
                f"{', '.join(MEDIA_AXES)}"
            )
        value = _take(file, f"{place}/{name}", (None,) * len(MEDIA_AXES[name].split()))
        found[name] = value.bool() if name.endswith("mask") else value
    return found


def _masks(file: _C.SealedFile, place: str) -> Masks:
    return {
        axis: _take(file, f"{place}/{axis}", (None, None)).bool() for axis in file.members(place)
    }


def _bfloat16(file: _C.SealedFile, place: str) -> Bfloat16:
    names = file.texts(f"{place}/name")
    errors = _take(file, f"{place}/relative_rms", (len(names),)).tolist()
    found = Bfloat16(dict(zip(names, errors, strict=True)))
    for key in ("logits_relative_rms", "logits_kl", "top1"):
        setattr(found, key, float(_take(file, f"{place}/{key}", ())))
    return found
