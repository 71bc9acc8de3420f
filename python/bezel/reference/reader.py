"""Reads what writer.py wrote; the file is untrusted input."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import torch

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
from bezel.sealed_reader import opened, read_tensor, text_of

_REMEDY = "Capture the reference again"


def read(path: Path) -> Bundle:
    """The bundle. Raises StoreError for all but a whole, own file."""
    with opened(path, "a reference that bezel wrote", _REMEDY) as (file, raw):
        meta = _checked_meta(path, file)
        source = _Source(path, raw)
        return Bundle(
            config=text_of(meta["config"]),
            generation_config=text_of(meta["generation_config"]),
            versions=dict(json.loads(text_of(meta["versions"]))),
            device=text_of(meta["device"]),
            weights=_weights(path, file["weights"]),
            outcomes={name: _outcome(source, name, file["cases"][name]) for name in file["cases"]},
        )


def _checked_meta(path: Path, file: Any) -> Any:
    meta = file["meta"].attrs
    kind = text_of(meta["kind"])
    if kind != KIND:
        raise StoreError(f"{path} is a {kind}; wanted a {KIND}. {_REMEDY}")
    if int(meta["schema"]) != SCHEMA:
        raise StoreError(
            f"{path} has schema {int(meta['schema'])}; this version of bezel reads {SCHEMA}. "
            f"{_REMEDY} with it"
        )
    return meta


def _weights(path: Path, group: Any) -> list[Fingerprint]:
    names, dtypes, shapes = (_texts(group[key]) for key in ("name", "dtype", "shape"))
    hashes = [int(digest) for digest in group["hash"][()]]
    lengths = {len(names), len(dtypes), len(shapes), len(hashes)}
    if len(lengths) != 1 or names != sorted(set(names)):
        raise StoreError(
            f"{path}: /weights has {sorted(lengths)} entries; wanted one list, sorted by name"
        )
    return [Fingerprint(*row) for row in zip(names, hashes, dtypes, shapes, strict=True)]


def _texts(dataset: Any) -> list[str]:
    return [text_of(value) for value in dataset[()]]


class _Source:
    """Takes values out of the file and holds them to the shapes that the tokens give."""

    def __init__(self, path: Path, raw: BinaryIO) -> None:
        self.path, self.raw = path, raw
        self.file_bytes = os.fstat(raw.fileno()).st_size
        self.limit = self.file_bytes
        self.read_before: dict[int, torch.Tensor] = {}  # by place: links share a value

    def take(self, group: Any, name: str, shape: tuple[int | None, ...]) -> torch.Tensor:
        """A dataset of this shape; None is any size."""
        full = f"{group.name}/{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise StoreError(f'{self.path}: "{full}" is missing, or a link to elsewhere')
        dataset = group[name]
        if not isinstance(dataset, h5py.Dataset):
            raise StoreError(f'{self.path}: "{full}" is no dataset; wanted one')
        place = h5py.h5o.get_info(dataset.id).addr
        if place not in self.read_before:
            value, self.limit = read_tensor(self.path, full, dataset, self.raw, self.limit)
            self.read_before[place] = value
        value = self.read_before[place]
        if len(shape) != value.ndim or any(
            w not in (None, g) for w, g in zip(shape, value.shape, strict=True)
        ):
            want = ["any" if size is None else size for size in shape]
            raise StoreError(
                f'{self.path}: "{full}" is {list(value.shape)}; wanted {want}. {_REMEDY}'
            )
        return value

    def act(self, group: Any, name: str, batch: int, length: int) -> Kept:
        """A value under /acts."""
        attributes = group[name].attrs if name in group else {}
        positions, dims = (_indices(attributes, key) for key in ("positions", "dims"))
        if (positions is None) != (dims is None):
            raise StoreError(
                f'{self.path}: "{group.name}/{name}" has one of positions and dims; wanted both, '
                "or neither"
            )
        sizes: dict[str, int] = {"batch": batch, "pos": length, "q_pos": length, "k_pos": length}
        if positions is not None:
            sizes |= dict.fromkeys(QUERY_AXES, len(positions))
        axes = axes_of(name)
        if axes is None:
            raise StoreError(f'{self.path}: "{group.name}/{name}" is no name of the hook table')
        shape = [sizes.get(axis) for axis in axes]
        if dims is not None:
            shape[-1] = len(dims)
        value = self.take(group, name, tuple(shape))
        labels = tuple(str(label) for label in attributes["DIMENSION_LABELS"])
        if labels != axes:
            raise StoreError(
                f'{self.path}: the axes of "{group.name}/{name}" are {list(labels)}; wanted '
                f"{list(axes)}"
            )
        norm, total = (float(attributes.get(key, 0.0)) for key in ("norm", "sum"))
        return Kept(value, positions, dims, norm, total)


def _indices(attributes: Any, key: str) -> torch.Tensor | None:
    if key not in attributes:
        return None
    return torch.from_numpy(np.asarray(attributes[key], dtype=np.int64))


def _outcome(source: _Source, name: str, group: Any) -> Outcome:
    tokens = source.take(group, "tokens", (None, None))
    batch, length = tokens.shape
    mask = source.take(group, "attention_mask", (batch, length))
    logits = group["logits"]
    n_top = logits["top_ids"].shape[-1]
    positions = source.take(logits, "positions", (None,))
    greedy = group["greedy"]
    new = source.take(greedy, "tokens", (batch, None))
    return Outcome(
        Case(
            name,
            text_of(group.attrs["about"]),
            tokens,
            mask,
            text_of(group.attrs["phase"]),
            _media(source, group["media"]),
            _masks(source, group["valid"]),
        ),
        {key: source.act(group["acts"], key, batch, length) for key in group["acts"]},
        Logits(
            source.take(logits, "top_ids", (batch, length, n_top)),
            source.take(logits, "top_values", (batch, length, n_top)),
            source.take(logits, "log_sum_exp", (batch, length)),
            positions,
            source.take(logits, "full", (batch, len(positions), None)),
        ),
        float(source.take(group, "loss", ())),
        source.take(group, "loss_per_token", (batch, length - 1)),
        _bfloat16(source, group["bfloat16"]),
        _bfloat16(source, group["bfloat16"]["stored"]),
        Greedy(new, source.take(greedy, "gap", tuple(new.shape))),
    )


def _media(source: _Source, group: Any) -> dict[str, torch.Tensor]:
    found = {}
    for name in group:
        if name not in MEDIA_AXES:
            raise StoreError(
                f'{source.path}: "{group.name}/{name}" is no argument of a run; wanted one of '
                f"{', '.join(MEDIA_AXES)}"
            )
        value = source.take(group, name, (None,) * len(MEDIA_AXES[name].split()))
        found[name] = value.bool() if name.endswith("mask") else value
    return found


def _masks(source: _Source, group: Any) -> Masks:
    return {axis: source.take(group, axis, (None, None)).bool() for axis in group}


def _bfloat16(source: _Source, group: Any) -> Bfloat16:
    names = _texts(group["name"])
    errors = source.take(group, "relative_rms", (len(names),)).tolist()
    found = Bfloat16(dict(zip(names, errors, strict=True)))
    for key in ("logits_relative_rms", "logits_kl", "top1"):
        setattr(found, key, float(source.take(group, key, ())))
    return found
