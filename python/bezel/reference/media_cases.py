"""The inputs of a reference with images, videos and sound; no processor is asked.

Pixels and features are noise of a generator seeded by the case: the same on every machine. Padding
patches and frames hold noise too, so that a tower that looks at them is noticed.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from bezel.reference.cases import IMAGES, MAX_TOKENS, SOUND, Case, case_of, ordinary_ids
from bezel.reference.padding import masks_of_media

_N_WORDS = 5
_PADDING_PATCHES = 2  # behind the largest of several images, in soft tokens
_CLIPS = (61, 38)  # frames: neither multiples of four nor of a chunk


@dataclass(frozen=True)
class _Shapes:
    """What the configuration asks of its inputs; 0: the model has no such part."""

    config: Mapping[str, Any]

    @property
    def is_unified(self) -> bool:
        """Without encoders."""
        return str(self.config.get("model_type", "")).startswith("gemma4_unified")

    @property
    def window(self) -> int:
        """Of the text, in tokens."""
        text = self.config.get("text_config") or self.config
        return int(text.get("sliding_window") or MAX_TOKENS)

    @property
    def vision(self) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.config.get("vision_config")
        return found

    @property
    def audio(self) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.config.get("audio_config")
        return found

    @property
    def pool(self) -> int:
        """Patches along a side of a soft token."""
        assert self.vision is not None
        return 1 if self.is_unified else int(self.vision.get("pooling_kernel_size") or 3)

    @property
    def d_patch(self) -> int:
        assert self.vision is not None
        side = int(self.vision.get("patch_size") or 16)
        if self.is_unified:
            side *= int(self.vision.get("pooling_kernel_size") or 3)
        return 3 * side * side

    @property
    def d_sound(self) -> int:
        """Mel bands; of a model without an audio encoder the samples of a frame."""
        assert self.audio is not None
        if self.is_unified:
            return int(self.audio.get("audio_embed_dim") or 640)
        channels = self.audio.get("subsampling_conv_channels") or [128, 32]
        return int(channels[0]) // 4 * 4

    def n_sound_tokens(self, n_frames: int) -> int:
        return n_frames if self.is_unified else math.ceil(math.ceil(n_frames / 2) / 2)


class _Writer:
    """One case: rows of ids, and what stands behind their media tokens."""

    def __init__(self, name: str, shapes: _Shapes, ordinary: list[int]) -> None:
        self.shapes, self.ordinary = shapes, ordinary
        self.rng = random.Random(f"bezel reference {name}")
        self.noise = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def words(self, n: int = _N_WORDS) -> list[int]:
        return self.rng.choices(self.ordinary, k=n)

    def marked(self, kind: str, n: int) -> list[int]:
        """N media tokens between the ids that begin and end them."""
        config = self.shapes.config
        ends = ("boa_token_id", "eoa_token_index") if kind == "audio" else (
            "boi_token_id", "eoi_token_id")  # fmt: skip
        begin, end = ([config[key]] if config.get(key) is not None else [] for key in ends)
        return [*begin, *[int(config[f"{kind}_token_id"])] * n, *end]

    def pixels(self, *shape: int) -> torch.Tensor:
        """From 0 to 1; [… d_patch]."""
        return torch.rand((*shape, self.shapes.d_patch), generator=self.noise)

    def features(self, *shape: int) -> torch.Tensor:
        """[… mel]."""
        return torch.randn((*shape, self.shapes.d_sound), generator=self.noise)


def make_media_cases(config: Mapping[str, Any], tokenizer: Any | None, pad: int) -> list[Case]:
    """The inputs for what a model has of vision and audio; none of a text model.

    Args:
        config: config.json.
        tokenizer: transformers' tokenizer, or None.
        pad: The id that stands at padding.
    """
    shapes, ordinary = _Shapes(config), ordinary_ids(config, tokenizer)
    cases = []
    if shapes.vision is not None:
        cases += [make(shapes, ordinary, pad) for make in (_image, _images, _window, _video)]
    if shapes.audio is not None:
        cases.append(_sound(shapes, ordinary, pad))
    return cases


def _image(shapes: _Shapes, ordinary: list[int], pad: int) -> Case:
    writer = _Writer("image", shapes, ordinary)
    size = (2, 3)
    row = [*writer.words(), *writer.marked("image", math.prod(size)), *writer.words()]
    case = case_of("image", "one image", [row], pad)
    return _with_media(case, _pictures(writer, [size]), shapes)


def _images(shapes: _Shapes, ordinary: list[int], pad: int) -> Case:
    writer = _Writer("images", shapes, ordinary)
    sizes = [(2, 3), (1, 2), (3, 1)]
    first, second, third = (writer.marked("image", math.prod(size)) for size in sizes)
    rows = [[*writer.words(), *first, *writer.words(2), *second], [*third, *writer.words()]]
    about = "three images of different sizes in two rows, padded on the left"
    case = case_of("images", about, rows, pad)
    return _with_media(case, _pictures(writer, sizes, _PADDING_PATCHES), shapes)


def _window(shapes: _Shapes, ordinary: list[int], pad: int) -> Case:
    writer = _Writer("window", shapes, ordinary)
    size, window = (2, 4), shapes.window
    before = writer.words(max(1, window - math.prod(size) // 2))
    row = [*before, *writer.marked("image", math.prod(size)), *writer.words(window // 2 + 2)]
    about = f"an image across the end of the first window of {window} tokens"
    case = case_of("window", about, [row], pad)
    return _with_media(case, _pictures(writer, [size]), shapes)


def _video(shapes: _Shapes, ordinary: list[int], pad: int) -> Case:
    writer = _Writer("video", shapes, ordinary)
    size, n_frames = (2, 2), 2
    frames = [[*writer.words(1), *writer.marked("video", math.prod(size))] for _ in range(n_frames)]
    row = [*writer.words(), *(i for frame in frames for i in frame), *writer.words()]
    grid = _grid(size, shapes.pool)
    media = {
        "pixel_values_videos": writer.pixels(1, n_frames, len(grid)),
        "video_position_ids": grid.repeat(1, n_frames, 1, 1),
    }
    case = case_of("video", f"{n_frames} frames of a video", [row], pad)
    return _with_media(case, media, shapes)


def _sound(shapes: _Shapes, ordinary: list[int], pad: int) -> Case:
    writer = _Writer("sound", shapes, ordinary)
    counts = [shapes.n_sound_tokens(n) for n in _CLIPS]
    rows = [[*writer.words(), *writer.marked("audio", n), *writer.words()] for n in counts]
    media = {
        "input_features": writer.features(len(_CLIPS), max(_CLIPS)),
        "input_features_mask": torch.arange(max(_CLIPS)) < torch.tensor(_CLIPS)[:, None],
    }
    case = case_of("sound", "two clips of different lengths", rows, pad)
    return _with_media(case, media, shapes, SOUND)


def _with_media(
    case: Case, media: dict[str, torch.Tensor], shapes: _Shapes, phase: str = IMAGES
) -> Case:
    masks = masks_of_media(media, encodes_sound=not shapes.is_unified)
    return replace(case, phase=phase, media=media, media_masks=masks)


def _grid(size: tuple[int, int], pool: int) -> torch.Tensor:
    """Column and row of each patch, row by row [patch 2]; the size is in soft tokens."""
    height, width = size
    rows, columns = torch.meshgrid(
        torch.arange(height * pool), torch.arange(width * pool), indexing="ij"
    )
    return torch.stack((columns.flatten(), rows.flatten()), dim=-1)


def _pictures(
    writer: _Writer, sizes: list[tuple[int, int]], n_more: int = 0
) -> dict[str, torch.Tensor]:
    """Images of these sizes; n_more: soft tokens' worth of padding behind the largest."""
    pool = writer.shapes.pool
    grids = [_grid(size, pool) for size in sizes]
    places = torch.full((len(sizes), max(map(len, grids)) + n_more * pool**2, 2), -1)
    for place, grid in zip(places, grids, strict=True):
        place[: len(grid)] = grid
    return {"pixel_values": writer.pixels(*places.shape[:2]), "image_position_ids": places}
