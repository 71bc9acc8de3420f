"""Documents with images, videos and sound, their batches, and the rows of a dump by plain loops."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from support import small_processors
from support.media import Shapes
from support.media_fixtures import MEDIA_RECIPES
from support.recipe import MEDIA_IDS

NAMES = tuple(MEDIA_RECIPES)
WITH_EARS = tuple(name for name in NAMES if MEDIA_RECIPES[name].audio)
RANDOM = np.random.default_rng(0)
SIZES = ((40, 40), (30, 44), (44, 30))  # rows, columns
PICTURES, SQUARES = (
    [Image.fromarray(RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    for sizes in (SIZES, SIZES[:1] * 3)
)
WIDE = ("sight_moe", "unified_media")  # whose tables of positions are long enough for these
FRAMES = RANDOM.integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
WAVES = [RANDOM.standard_normal(n).astype(np.float32) for n in (5000, 3210)]
RATE = 16_000


def seen(pictures: list[Any]) -> list[Any]:
    return [
        {"text": "w5 <|image|> w7 w8 <|image|> w9", "images": pictures[:2]},
        {"text": "w4 w6 w11 w12"},
        "w8 w9 w10",
        {"text": "<|video|> w20 <|image|>", "video": FRAMES, "image": pictures[2]},
        {"text": "w3 w3", "images": []},
        {"text": "w30 <|video|>", "videos": [FRAMES[::-1].copy()]},
    ]


SEEN = seen(SQUARES)
HEARD: list[Any] = [
    {"text": "w5 <|audio|> w7", "audio": WAVES[0]},
    "w8 w9 w10",
    {"text": "<|audio|> w20 w21 <|audio|>", "audio": WAVES[::-1]},
    {"text": "<|image|> w3 <|audio|>", "image": SQUARES[0], "audio": [WAVES[1]]},
]
BATCH = 2
IMAGE = MEDIA_IDS["image_token_id"]


def documents_of(name: str) -> list[Any]:
    sights = seen(PICTURES) if name in WIDE else SEEN
    return sights + (HEARD if name in WITH_EARS else [])


def several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def batches_of(b: Any, documents: list[Any]) -> list[dict[str, Any]]:
    """Forward arguments of two documents each, as a user would make them."""
    made = []
    for at in range(0, len(documents), BATCH):
        some = [d if isinstance(d, dict) else {"text": d} for d in documents[at : at + BATCH]]
        images = [several(d["images"] if "images" in d else d.get("image", [])) for d in some]
        videos = [[d["video"]] if "video" in d else d.get("videos", []) for d in some]
        audio = [wave for d in some for wave in several(d.get("audio", []))]
        made.append(b.prepare_multimodal_inputs(
            [d["text"] for d in some],
            images=images if any(images) else None,
            videos=[video for row in videos for video in row] or None,
            audio=audio or None,
            padding_side="right",
        ))  # fmt: skip
    return made


def patches_of(b: Any, name: str, inputs: dict[str, Any]) -> list[list[tuple[int, int]]]:
    """(image, patch) of the patches of each soft token, found by looking for each square."""
    pool = Shapes(MEDIA_RECIPES[name]).pooling
    found = []
    all_positions = [*inputs.get("image_position_ids", [])]
    for video in inputs.get("video_position_ids", []):
        all_positions += [*video]
    for image, positions in enumerate(all_positions):
        squares = {(y // pool, x // pool) for x, y in positions.tolist() if x >= 0}
        for row, column in sorted(squares) if pool > 1 else ():
            inside = [
                (y, x, patch)
                for patch, (x, y) in enumerate(positions.tolist())
                if x >= 0 and (y // pool, x // pool) == (row, column)
            ]
            found.append([(image, patch) for _, _, patch in sorted(inside)])
        if pool == 1:
            found += [[(image, p)] for p, (x, _) in enumerate(positions.tolist()) if x >= 0]
    return found


def frames_of(name: str, inputs: dict[str, Any]) -> list[tuple[int, int]]:
    """(clip, frame) of each soft token of sound."""
    step = 1 if MEDIA_RECIPES[name].wrapper == "unified" else 4
    return [
        (clip, at // step)
        for clip, mask in enumerate(inputs.get("input_features_mask", []))
        for at in range(0, len(mask), step)
        if mask[at]
    ]


def entry(value: torch.Tensor, axes: tuple[str, ...], at: dict[str, int]) -> torch.Tensor:
    """A value at some places of some axes."""
    for axis in sorted(at, key=axes.index, reverse=True):
        value = value.select(axes.index(axis), at[axis])
    return value


def row_of_sound(value: torch.Tensor, axes: tuple[str, ...], clip: int, frame: int) -> Any:
    if "q_frame" in axes:
        n = value.shape[axes.index("q_frame")]
        return entry(value, axes, {"audio": clip, "chunk": frame // n, "q_frame": frame % n})
    for axis, n in (("half_frame", 2), ("mel_frame", 4)):
        if axis not in axes:
            continue
        places = range(frame * n, frame * n + n)
        whole = value.shape[1]
        zero = torch.zeros_like(value[0, 0])
        return torch.stack([value[clip, p] if p < whole else zero for p in places])
    return entry(value, axes, {"audio": clip, "frame": frame})


def wanted(
    b: Any, fixture: str, documents: list[Any], names: list[str], types: tuple[int, ...]
) -> Any:
    """Rows by name, and labels (token, document, position, type), by loops over tokens."""
    from bezel.cache_values import axes_of

    rows: dict[str, list[Any]] = {name: [] for name in names}
    labels = []
    for number, inputs in enumerate(batches_of(b, documents)):
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input"]))
        kinds = inputs.get("mm_token_type_ids", torch.zeros_like(mask))
        soft, heard = patches_of(b, fixture, inputs), frames_of(fixture, inputs)
        n_images = int((kinds == 1).sum())
        order = {1: iter(range(n_images)), 2: iter(range(n_images, len(soft))), 3: iter(heard)}
        places = [(r, p) for r, row in enumerate(mask.tolist()) for p, m in enumerate(row) if m]
        kept = [(r, p, int(kinds[r, p])) for r, p in places if int(kinds[r, p]) in types]
        if not kept:
            continue
        _, cache = b.run_with_cache(**inputs, names_filter=names, return_type=None)
        for row, pos, kind in kept:
            labels.append((int(inputs["input"][row, pos]), number * BATCH + row, pos, kind))
            unit = next(order[kind]) if kind else None
            for name in names:
                rows[name].append(row_at(cache[name], axes_of(name), row, pos, unit, soft))
    return {name: torch.stack(found) for name, found in rows.items()}, labels


def row_at(value: Any, axes: Any, row: int, pos: int, unit: Any, soft: Any) -> torch.Tensor:
    if axes[0] == "soft":
        return value[unit]
    if axes[0] == "image":
        axis = "q_patch" if "q_patch" in axes else "patch"
        return torch.stack([entry(value, axes, {"image": i, axis: p}) for i, p in soft[unit]])
    if axes[0] == "audio":
        return row_of_sound(value, axes, *unit)
    axis = next(a for a in ("pos", "q_pos", "k_pos") if a in axes)
    return entry(value, axes, {"batch": row, axis: pos})


def dumped(b: Any, documents: Any, out: Path, hooks: Any, **settings: Any) -> Any:
    import bezel

    options = {"batch": BATCH, "length": 400, "verbose": False} | settings
    bezel.dump(b, documents, out, hooks, **options)
    return bezel.ActivationStore(out, out="torch", checksum="always")


def same(store: Any, rows: dict[str, torch.Tensor], labels: list[tuple[int, ...]]) -> None:
    found = [store.label(label).tolist() for label in ("token_id", "document", "position", "type")]
    assert list(zip(*found, strict=True)) == labels
    for name, want in rows.items():
        assert torch.equal(store[name][:], want), name


def points(b: Any, start: tuple[str, ...]) -> list[str]:
    return [point.name for point in b.hook_points() if point.name.startswith(start)]


def bridges_with_processors(lab: Any, folders: Any, dtype: Any = None) -> dict[str, Any]:
    """With processors in their folders; on the open path, on which records change no bit."""
    import bezel

    made = {}
    for name in NAMES:
        folder = folders.mktemp("processors") / name
        shutil.copytree(lab.folder(name), folder)
        small_processors.processor(name).save_pretrained(folder)
        made[name] = bezel.Bridge.from_pretrained(str(folder), dtype=dtype, path="open")
    return made
