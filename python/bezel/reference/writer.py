"""Writes a reference bundle: one sealed HDF5 file (hooks/store/README.md).

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
from pathlib import Path
from typing import Any

import torch
import xxhash

from bezel import _C
from bezel.reference.bundle import KIND, SCHEMA, Bundle, Outcome
from bezel.reference.cases import Case
from bezel.reference.checkpoint import Fingerprint
from bezel.reference.judging import Bfloat16
from bezel.reference.padding import wanted_axes
from bezel.reference.sampling import Kept

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
    meta: dict[str, _C.Attribute] = {
        "kind": KIND,
        "bezel": _C.__version__,
        "versions": json.dumps(bundle.versions, sort_keys=True),
        "dtype": "float32",
        "device": bundle.device,
        "config": bundle.config,
        "generation_config": bundle.generation_config,
        "schema": SCHEMA,
    }
    file = _C.Sealing()
    file.group("/meta", meta)
    _weights(file, bundle.weights)
    file.group("/cases", keeps_order=True)
    for name, outcome in bundle.outcomes.items():
        _case(file, f"/cases/{name}", outcome)
    file.write(path)


def _weights(file: _C.Sealing, found: list[Fingerprint]) -> None:
    file.group("/weights")
    file.texts("/weights/name", [w.name for w in found])
    file.values("/weights/hash", torch.tensor([w.hash for w in found], dtype=torch.uint64))
    file.texts("/weights/dtype", [w.dtype for w in found])
    file.texts("/weights/shape", [w.shape for w in found])


def _case(file: _C.Sealing, place: str, outcome: Outcome) -> None:
    assert outcome.logits is not None
    assert outcome.greedy is not None
    case, logits = outcome.case, outcome.logits
    file.group(place, {"about": case.about, "phase": case.phase, "required": True})

    def put(name: str, value: torch.Tensor, axes: str) -> None:
        file.values(f"{place}/{name}", value, axes.split())

    put("tokens", case.tokens, "batch pos")
    put("attention_mask", case.attention_mask, "batch pos")
    _media(file, place, case)
    _acts(file, f"{place}/acts", outcome.acts)
    file.group(f"{place}/logits")
    put("logits/top_ids", logits.top_ids, "batch pos rank")
    put("logits/top_values", logits.top_values, "batch pos rank")
    put("logits/log_sum_exp", logits.log_sum_exp, "batch pos")
    put("logits/positions", logits.positions, "pos")
    put("logits/full", logits.full, "batch pos d_vocab")
    put("loss", torch.tensor(outcome.loss, dtype=torch.float64), "")
    put("loss_per_token", outcome.loss_per_token, "batch pos")
    _bfloat16(file, f"{place}/bfloat16", outcome.bfloat16)
    _bfloat16(file, f"{place}/bfloat16/stored", outcome.bfloat16_stored)
    file.group(f"{place}/greedy")
    put("greedy/tokens", outcome.greedy.tokens, "batch new")
    put("greedy/gap", outcome.greedy.gap, "batch new")


def _media(file: _C.Sealing, place: str, case: Case) -> None:
    file.group(f"{place}/media")
    file.group(f"{place}/valid")
    for name, value in case.media.items():
        numbers = value.long() if value.dtype == torch.bool else value
        file.values(f"{place}/media/{name}", numbers, MEDIA_AXES[name].split())
    for axis, mask in case.media_masks.items():
        axes = ["image" if axis == "patch" else "audio", axis]
        file.values(f"{place}/valid/{axis}", mask.long(), axes)


def _acts(file: _C.Sealing, place: str, acts: dict[str, Kept]) -> None:
    """Two names of equal values on equal axes are two links to one dataset."""
    file.group(place, keeps_order=True)
    owners: dict[Any, str] = {}
    for name, kept in acts.items():
        value, axes = kept.value.contiguous(), wanted_axes(name)
        content = xxhash.xxh3_128_digest(value.flatten().view(torch.uint8).numpy().data)
        identity = (content, value.shape, value.dtype, axes, kept.norm, kept.sum, kept.is_part)
        if identity in owners:
            file.link(f"{place}/{name}", f"{place}/{owners[identity]}")
            continue
        owners[identity] = name
        part: dict[str, _C.Attribute] = {}
        if kept.positions is not None and kept.dims is not None:
            part = {
                "positions": kept.positions.tolist(), "dims": kept.dims.tolist(),
                "norm": kept.norm, "sum": kept.sum,
            }  # fmt: skip
        file.values(f"{place}/{name}", value, axes, part)


def _bfloat16(file: _C.Sealing, place: str, found: Bfloat16) -> None:
    file.group(place)
    file.texts(f"{place}/name", list(found.relative_rms))
    errors = torch.tensor(list(found.relative_rms.values()), dtype=torch.float64)
    file.values(f"{place}/relative_rms", errors)
    for key in ("logits_relative_rms", "logits_kl", "top1"):
        file.values(f"{place}/{key}", torch.tensor(getattr(found, key), dtype=torch.float64))
