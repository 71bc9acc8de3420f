"""Writes a reference bundle: an HDF5 file, sealed as sealed_file.py says.

In it:
    /meta              attributes kind, schema, bezel, versions (JSON), dtype, device, config,
                       generation_config; texts are bytes of fixed length
    /weights           name, hash (XXH3-64 of the stored bytes), dtype, shape; sorted by name
    /cases/<case>      attributes about, required, phase (P1, P7 or P8: who reads it)
      tokens, attention_mask       int64 [batch pos]
      media/<argument>             of transformers' forward, in its axes
      valid/<axis>                 int64 [image patch], [audio frame] …; 0 at padding
      acts/<hook name>             float32 or int64; of a part, attributes positions, dims (indices
                                   kept), norm and sum (of the whole; see sampling.Kept)
      logits/                      top_ids, top_values [batch pos rank], log_sum_exp [batch pos],
                                   full [batch pos d_vocab] at positions
      loss, loss_per_token         float64; float32 [batch pos-1]
      bfloat16/                    name, relative_rms, logits_relative_rms, logits_kl, top1;
                                   stored/: the same against the values of this file
      greedy/                      tokens, gap [batch new]
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import xxhash

from bezel import _C, sealed_file
from bezel.reference.bundle import KIND, SCHEMA, Bundle, Outcome
from bezel.reference.cases import Case
from bezel.reference.checkpoint import Fingerprint
from bezel.reference.judging import Bfloat16
from bezel.reference.padding import wanted_axes
from bezel.reference.sampling import Kept
from bezel.sealed_file import Places

_TEXT = h5py.string_dtype()
MEDIA_AXES = {
    "pixel_values": "image patch d_patch",
    "image_position_ids": "image patch column_row",
    "pixel_values_videos": "video frame patch d_patch",
    "video_position_ids": "video frame patch column_row",
    "input_features": "audio mel_frame mel",
    "input_features_mask": "audio mel_frame",
}


def write(path: Path, bundle: Bundle) -> None:
    """Writes the file whole, or leaves what was there. Raises StoreError."""
    sealed_file.write(path, lambda file: _skeleton(file, bundle))


def _skeleton(file: Any, bundle: Bundle) -> Places:
    places: Places = []
    texts = {
        "kind": KIND,
        "bezel": _C.__version__,
        "versions": json.dumps(bundle.versions, sort_keys=True),
        "dtype": "float32",
        "device": bundle.device,
        "config": bundle.config,
        "generation_config": bundle.generation_config,
    }
    meta = file.create_group("meta").attrs
    for key, text in texts.items():
        _put_text(meta, key, text)
    meta["schema"] = np.int64(SCHEMA)
    _weights(file.create_group("weights"), bundle.weights)
    cases = file.create_group("cases", track_order=True)
    for name, outcome in bundle.outcomes.items():
        _case(cases.create_group(name), outcome, places)
    return places


def _put_text(attributes: Any, key: str, text: str) -> None:
    raw = text.encode()
    attributes.create(key, np.array(raw, dtype=f"S{max(1, len(raw))}"))


def _weights(group: Any, found: list[Fingerprint]) -> None:
    group.create_dataset("name", data=[w.name for w in found], dtype=_TEXT)
    group.create_dataset("hash", data=np.array([w.hash for w in found], dtype="<u8"))
    group.create_dataset("dtype", data=[w.dtype for w in found], dtype=_TEXT)
    group.create_dataset("shape", data=[w.shape for w in found], dtype=_TEXT)


def _case(group: Any, outcome: Outcome, places: Places) -> None:
    assert outcome.logits is not None
    assert outcome.greedy is not None
    _put_text(group.attrs, "about", outcome.case.about)
    _put_text(group.attrs, "phase", outcome.case.phase)
    group.attrs["required"] = np.int8(1)

    def put(at: Any, name: str, value: torch.Tensor, axes: str) -> None:
        offset = sealed_file.create(at, name, value, axes.split())
        if value.numel():
            places.append((offset, value))

    put(group, "tokens", outcome.case.tokens, "batch pos")
    put(group, "attention_mask", outcome.case.attention_mask, "batch pos")
    _media(outcome.case, group.create_group("media"), group.create_group("valid"), put)
    _acts(group.create_group("acts", track_order=True), outcome.acts, places)
    logits, found = group.create_group("logits"), outcome.logits
    put(logits, "top_ids", found.top_ids, "batch pos rank")
    put(logits, "top_values", found.top_values, "batch pos rank")
    put(logits, "log_sum_exp", found.log_sum_exp, "batch pos")
    put(logits, "positions", found.positions, "pos")
    put(logits, "full", found.full, "batch pos d_vocab")
    put(group, "loss", torch.tensor(outcome.loss, dtype=torch.float64), "")
    put(group, "loss_per_token", outcome.loss_per_token, "batch pos")
    bfloat16 = group.create_group("bfloat16")
    _bfloat16(bfloat16, outcome.bfloat16)
    _bfloat16(bfloat16.create_group("stored"), outcome.bfloat16_stored)
    greedy = group.create_group("greedy")
    put(greedy, "tokens", outcome.greedy.tokens, "batch new")
    put(greedy, "gap", outcome.greedy.gap, "batch new")


def _media(case: Case, media: Any, valid: Any, put: Callable[..., None]) -> None:
    for name, value in case.media.items():
        put(media, name, value.long() if value.dtype == torch.bool else value, MEDIA_AXES[name])
    for axis, mask in case.media_masks.items():
        put(valid, axis, mask.long(), f"{'image' if axis == 'patch' else 'audio'} {axis}")


def _acts(group: Any, acts: dict[str, Kept], places: Places) -> None:
    """Two names of equal values on equal axes are two links to one dataset."""
    owners: dict[Any, str] = {}
    for name, kept in acts.items():
        value, axes = kept.value.contiguous(), wanted_axes(name)
        content = xxhash.xxh3_128_digest(value.flatten().view(torch.uint8).numpy().data)
        identity = (content, value.shape, value.dtype, axes, kept.norm, kept.sum, kept.is_part)
        if identity in owners:
            group[name] = group[owners[identity]]
            continue
        owners[identity] = name
        places.append((sealed_file.create(group, name, value, axes), value))
        if kept.positions is not None and kept.dims is not None:
            attributes = group[name].attrs
            attributes["positions"], attributes["dims"] = kept.positions.numpy(), kept.dims.numpy()
            attributes["norm"], attributes["sum"] = np.float64(kept.norm), np.float64(kept.sum)


def _bfloat16(group: Any, found: Bfloat16) -> None:
    names = list(found.relative_rms)
    group.create_dataset("name", data=names, dtype=_TEXT)
    errors = np.array([found.relative_rms[name] for name in names], dtype="<f8")
    group.create_dataset("relative_rms", data=errors)
    for key in ("logits_relative_rms", "logits_kl", "top1"):
        group.create_dataset(key, data=np.float64(getattr(found, key)))
