"""Prompts with images, videos and sounds, made without a processor: forward arguments to share.

A prompt is written as parts; the pixels, features, positions, masks and token types follow from
them. Padding patches and frames hold noise: a tower that looks at them is noticed.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from support.media_fixtures import MEDIA_RECIPES
from support.recipe import FIRST_SPECIAL_ID, MEDIA_IDS, Recipe

Arguments = dict[str, torch.Tensor]
PAD = 0
TEXT, IMAGE, VIDEO, AUDIO = range(4)  # in mm_token_type_ids
_BOI, _EOI = MEDIA_IDS["boi_token_id"], MEDIA_IDS["eoi_token_id"]
_BOA, _EOA = MEDIA_IDS["boa_token_id"], MEDIA_IDS["eoa_token_index"]
MEDIA_TOKEN_IDS = {
    IMAGE: MEDIA_IDS["image_token_id"],
    VIDEO: MEDIA_IDS["video_token_id"],
    AUDIO: MEDIA_IDS["audio_token_id"],
}


@dataclass(frozen=True)
class Text:
    n: int


@dataclass(frozen=True)
class Image:
    """Sizes in soft tokens; bare: without the marks before and behind it."""

    height: int
    width: int
    bare: bool = False


@dataclass(frozen=True)
class Video:
    """Frames of one size, each between marks and behind a token that stands for its time."""

    n_frames: int
    height: int
    width: int


@dataclass(frozen=True)
class Sound:
    """n_frames of the mel spectrum; of the wave where the model has no audio tower."""

    n_frames: int
    bare: bool = False


Part = Text | Image | Video | Sound


@dataclass(frozen=True)
class MediaCase:
    """One call. inputs: forward arguments, the same for transformers and for bezel."""

    name: str
    inputs: Arguments

    @property
    def tokens(self) -> torch.Tensor:
        """[batch pos]."""
        return self.inputs["input_ids"]

    @property
    def media(self) -> Arguments:
        """All arguments but the tokens."""
        return {key: value for key, value in self.inputs.items() if key != "input_ids"}

    @property
    def valid(self) -> torch.Tensor:
        """[batch pos], bool: where a token is."""
        return self.inputs.get("attention_mask", torch.ones_like(self.tokens)).bool()


class Shapes:
    """What the recipe asks of its inputs."""

    def __init__(self, recipe: Recipe) -> None:
        assert recipe.vision is not None
        self.unified = recipe.wrapper == "unified"
        pooling, patch = recipe.vision["pooling_kernel_size"], recipe.vision["patch_size"]
        self.pooling = 1 if self.unified else pooling  # patches a side of a soft token
        self.d_patch = 3 * (patch * pooling if self.unified else patch) ** 2
        self.d_sound = 0
        if recipe.audio is not None:  # as many mel bands as the first convolution has channels
            audio = recipe.audio
            bands = audio["audio_embed_dim"] if self.unified else audio["subsampling_conv_channels"]
            self.d_sound = bands if self.unified else bands[0]

    def sound_tokens(self, n_frames: int) -> int:
        """Two convolutions halve the frames, rounding up."""
        return n_frames if self.unified else math.ceil(n_frames / 4)

    def positions(self, height: int, width: int) -> torch.Tensor:
        """(x, y) of each patch, row by row, [patch 2]."""
        ys, xs = torch.meshgrid(
            torch.arange(height * self.pooling), torch.arange(width * self.pooling), indexing="ij"
        )
        return torch.stack((xs.flatten(), ys.flatten()), dim=-1)


def _row(parts: Sequence[Part], shapes: Shapes, rng: torch.Generator) -> list[int]:
    ids: list[int] = []
    for part in parts:
        if isinstance(part, Text):
            ids += torch.randint(3, FIRST_SPECIAL_ID, (part.n,), generator=rng).tolist()
        elif isinstance(part, Image):
            block = [MEDIA_TOKEN_IDS[IMAGE]] * (part.height * part.width)
            ids += block if part.bare else [_BOI, *block, _EOI]
        elif isinstance(part, Video):
            block = [MEDIA_TOKEN_IDS[VIDEO]] * (part.height * part.width)
            for _ in range(part.n_frames):
                ids += [int(torch.randint(3, FIRST_SPECIAL_ID, (), generator=rng)), _BOI, *block]
                ids.append(_EOI)
        else:
            block = [MEDIA_TOKEN_IDS[AUDIO]] * shapes.sound_tokens(part.n_frames)
            ids += block if part.bare else [_BOA, *block, _EOA]
    return ids


def _text_arguments(rows: list[list[int]]) -> Arguments:
    """Rows that end together; the mask only where there is padding."""
    length = max(map(len, rows))
    tokens = torch.tensor([[PAD] * (length - len(row)) + row for row in rows])
    types = torch.zeros_like(tokens)
    for kind, token in MEDIA_TOKEN_IDS.items():
        types[tokens == token] = kind
    arguments = {"input_ids": tokens, "mm_token_type_ids": types}
    if any(len(row) < length for row in rows):
        mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
        arguments["attention_mask"] = torch.tensor(mask)
    return arguments


def _patches(
    grids: list[torch.Tensor], shapes: Shapes, n_more: int, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(pixels in 0..1 [image patch d_patch], positions [image patch 2]) of padded grids."""
    n_patches = max(map(len, grids)) + n_more * shapes.pooling**2
    positions = torch.full((len(grids), n_patches, 2), -1)
    for i, grid in enumerate(grids):
        positions[i, : len(grid)] = grid
    return torch.rand(len(grids), n_patches, shapes.d_patch, generator=rng), positions


def _image_arguments(
    parts: list[Part], shapes: Shapes, n_more: int, rng: torch.Generator
) -> Arguments:
    arguments: Arguments = {}
    images = [part for part in parts if isinstance(part, Image)]
    if images:
        grids = [shapes.positions(part.height, part.width) for part in images]
        pixels, positions = _patches(grids, shapes, n_more, rng)
        arguments |= {"pixel_values": pixels, "image_position_ids": positions}
    videos = [part for part in parts if isinstance(part, Video)]
    if videos:
        (n_frames,) = {part.n_frames for part in videos}
        grids = [shapes.positions(p.height, p.width) for p in videos for _ in range(n_frames)]
        pixels, positions = _patches(grids, shapes, n_more, rng)
        leading = (len(videos), n_frames)
        arguments["pixel_values_videos"] = pixels.reshape(*leading, *pixels.shape[1:])
        arguments["video_position_ids"] = positions.reshape(*leading, *positions.shape[1:])
    return arguments


def _sound_arguments(
    parts: list[Part], shapes: Shapes, n_more: int, rng: torch.Generator
) -> Arguments:
    counts = [part.n_frames for part in parts if isinstance(part, Sound)]
    if not counts:
        return {}
    n_frames = max(counts) + n_more
    mask = torch.arange(n_frames) < torch.tensor(counts)[:, None]
    features = torch.randn(len(counts), n_frames, shapes.d_sound, generator=rng)
    return {"input_features": features, "input_features_mask": mask}


def make_case(
    recipe_name: str, name: str, rows: Sequence[Sequence[Part]], n_more: int = 0
) -> MediaCase:
    """The call whose rows are made of these parts.

    n_more: padding beyond the largest image, in soft tokens, and the longest clip, in frames.
    """
    shapes = Shapes(MEDIA_RECIPES[recipe_name])
    rng = torch.Generator().manual_seed(zlib.crc32(f"{recipe_name} {name}".encode()))
    parts = [part for row in rows for part in row]
    inputs = _text_arguments([_row(row, shapes, rng) for row in rows])
    inputs |= _image_arguments(parts, shapes, n_more, rng)
    inputs |= _sound_arguments(parts, shapes, n_more, rng)
    return MediaCase(name, inputs)


Rows = list[list[Part]]
# Soft tokens: at most eight a side, the last rows of the smallest position table.
_SEEN: dict[str, tuple[Rows, int]] = {
    "several_images": (
        [[Text(3), Image(1, 2), Text(2), Image(3, 1), Image(2, 2), Text(4)]], 2),
    "start_and_end": ([[Image(1, 3, bare=True), Text(5), Image(2, 1, bare=True)]], 0),
    "touching": ([[Text(2), Image(2, 1, bare=True), Image(1, 3, bare=True), Text(4)]], 0),
    # Every window of the recipes is shorter than these blocks.
    "across_the_window": ([[Text(4), Image(1, 8), Text(3), Image(4, 3), Text(13)]], 0),
    "batch": ([
        [Image(2, 2), Text(9)],
        [Text(15)],
        [Text(2), Image(1, 3), Image(3, 1), Text(3)]], 0),
    "left_padded": ([
        [Text(2), Image(3, 2), Text(8)],
        [Image(2, 1, bare=True), Text(3)],
        [Text(4), Image(1, 1), Image(2, 2), Text(1)]], 1),
    "video": ([[Text(2), Video(2, 2, 2), Text(3)]], 0),
    "images_and_videos": ([
        [Text(1), Video(2, 3, 2), Text(2), Image(2, 2), Text(1)],
        [Image(1, 4), Text(2), Video(2, 1, 2), Image(1, 1, bare=True)]], 1),
}  # fmt: skip
# Neither 22, 53 nor 37 divides by four, nor do 6, 14 and 10 frames of the tower by its chunk.
_HEARD: dict[str, tuple[Rows, int]] = {
    "two_clips": ([[Text(3), Sound(53), Text(4), Sound(22), Text(2)]], 3),
    "one_clip": ([[Sound(37, bare=True), Text(6)]], 0),
    "left_padded_clips": ([
        [Text(2), Sound(22), Text(3)],
        [Text(1), Sound(37), Sound(9), Text(2)],
        [Text(4), Sound(5, bare=True)]], 0),
    "everything": ([
        [Text(2), Image(2, 2), Sound(22), Text(2), Video(2, 1, 2), Text(1)],
        [Sound(53), Image(1, 3), Text(3)],
        [Text(6)]], 1),
}  # fmt: skip


def cases(recipe_name: str) -> dict[str, MediaCase]:
    """Every case of a recipe in `media_fixtures`."""
    written = _SEEN | (_HEARD if MEDIA_RECIPES[recipe_name].audio else {})
    return {
        name: make_case(recipe_name, name, rows, n_more) for name, (rows, n_more) in written.items()
    }


def widest_case(recipe_name: str) -> MediaCase:
    """The one in which every tower of the recipe runs."""
    found = cases(recipe_name)
    return found["everything" if "everything" in found else "images_and_videos"]
