"""Media that do not fit: typed errors with the argument, what it is and what it should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bezel.errors import ArgumentError
from support import media
from support.lab import Lab
from support.recipe import MEDIA_IDS

Inputs = dict[str, Any]
Change = Callable[[Inputs], None]
IMAGE, VIDEO, AUDIO = (MEDIA_IDS[f"{kind}_token_id"] for kind in ("image", "video", "audio"))


def put(name: str, change: Callable[[torch.Tensor], Any]) -> Change:
    def apply(inputs: Inputs) -> None:
        inputs[name] = change(inputs[name].clone())

    return apply


def drop(*names: str) -> Change:
    def apply(inputs: Inputs) -> None:
        for name in names:
            del inputs[name]

    return apply


def at(place: tuple[int, ...], number: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(value: torch.Tensor) -> torch.Tensor:
        value[place] = number
        return value

    return change


def more(token: int) -> Change:
    """One media token more than there are soft tokens; the types as the ids say."""

    def apply(inputs: Inputs) -> None:
        inputs["input_ids"] = inputs["input_ids"].clone()
        inputs["input_ids"][-1, -1] = token
        del inputs["mm_token_type_ids"]

    return apply


def as_text(token: int) -> Change:
    def apply(inputs: Inputs) -> None:
        ids = inputs["input_ids"].clone()
        ids[ids == token] = 5
        inputs["input_ids"] = ids
        del inputs["mm_token_type_ids"]

    return apply


def masked_clip(mask: torch.Tensor) -> torch.Tensor:
    mask[1] = False
    return mask


# what is wrong | how | words of the message, in this order
WRONG: dict[str, tuple[Change, str]] = {
    "patches of another width": (
        put("pixel_values", lambda v: v[..., :-1]),
        r"pixel_values .*\[image patch d_patch\] with d_patch = 48"),
    "an image without its axis": (
        put("pixel_values", lambda v: v[0]), r"pixel_values .*\[image patch d_patch\]"),
    "integer pixels": (
        put("pixel_values", lambda v: (255 * v).to(torch.uint8)), r"pixel_values .*Byte.*floats"),
    "no image at all": (
        put("pixel_values", lambda v: v[:0]), r"pixel_values .*\[image patch d_patch\]"),
    "NaN pixels": (
        put("pixel_values", at((0, 0, 0), float("nan"))), r"pixel_values .*NaN or infinite"),
    "infinite pixels of a video": (
        put("pixel_values_videos", at((0, 0, 0, 0), float("inf"))),
        r"pixel_values_videos .*NaN or infinite"),
    "a video without frames": (
        put("pixel_values_videos", lambda v: v[:, 0]),
        r"pixel_values_videos .*\[video frame patch d_patch\]"),
    "positions for other patches": (
        put("image_position_ids", lambda v: v[:, :-1]),
        r"image_position_ids .*wanted int64 \[image patch 2\] for pixel_values"),
    "positions that are floats": (
        put("image_position_ids", lambda v: v.float()), r"image_position_ids .*wanted int64"),
    "positions of three numbers": (
        put("image_position_ids", lambda v: torch.cat([v, v[..., :1]], -1)),
        r"image_position_ids .*\[image patch 2\]"),
    "no positions": (drop("image_position_ids"), r"image_position_ids is missing"),
    "no positions of a video": (drop("video_position_ids"), r"video_position_ids is missing"),
    "positions alone": (drop("pixel_values"), r"pixel_values is missing beside image_position_ids"),
    "a position behind the table": (
        put("image_position_ids", at((0, 0, 1), 25)),
        r"image_position_ids run from -1 to 25; wanted 0 to 24"),
    "a position before the table": (
        put("video_position_ids", at((0, 0, 0, 0), -2)),
        r"video_position_ids run from -2 to .*wanted 0 to 24"),
    "a patch with half a position": (
        put("image_position_ids", at((0, 0, 0), -1)),
        r"image_position_ids has a patch with one coordinate -1"),
    "a soft token without its nine patches": (
        put("image_position_ids", at((0, 0), -1)),
        r"image_position_ids .*soft token has 8 to 9 patches; wanted 9"),
    "a patch twice": (
        put("image_position_ids", at((0, 0, 0), 3)),
        r"image_position_ids .*patches; wanted 9"),
    "an image of padding": (
        put("image_position_ids", at((1,), -1)),
        r"image_position_ids .*image 1 has padding alone"),
    "images without tokens": (as_text(IMAGE), r"tokens hold 0 image tokens; pixel_values makes"),
    "a video without tokens": (
        as_text(VIDEO), r"tokens hold 0 video tokens; pixel_values_videos makes"),
    "clips without tokens": (as_text(AUDIO), r"tokens hold 0 audio tokens; input_features makes"),
    "an image token too many": (
        more(IMAGE), r"tokens hold 8 image tokens; pixel_values makes 7 soft tokens"),
    "a video token too many": (
        more(VIDEO), r"tokens hold 5 video tokens; pixel_values_videos makes 4 soft tokens"),
    "an audio token too many": (
        more(AUDIO), r"tokens hold 21 audio tokens; input_features makes 20 soft tokens"),
    "image tokens without images": (
        drop("pixel_values", "image_position_ids"),
        r"tokens hold 7 image tokens, and pixel_values is missing"),
    "video tokens without a video": (
        drop("pixel_values_videos", "video_position_ids"),
        r"tokens hold 4 video tokens, and pixel_values_videos is missing"),
    "audio tokens without clips": (
        drop("input_features", "input_features_mask"),
        r"tokens hold 20 audio tokens, and input_features is missing"),
    "clips of other bands": (
        put("input_features", lambda v: v[..., :-1]), r"input_features .*with mel = 16"),
    "clips without frames": (
        put("input_features", lambda v: v[:, :0]), r"input_features .*at least one clip and frame"),
    "integer clips": (
        put("input_features", lambda v: v.long()), r"input_features .*wanted floats"),
    "NaN in a clip": (
        put("input_features", at((1, 2, 3), float("nan"))), r"input_features .*NaN or infinite"),
    "a mask for other frames": (
        put("input_features_mask", lambda v: v[:, :-1]),
        r"input_features_mask .*\[audio frame\] for input_features"),
    "a mask of other numbers": (
        put("input_features_mask", lambda v: v.long() * 2), r"input_features_mask .*0 and 1"),
    "a mask alone": (drop("input_features"), r"input_features is missing beside"),
    "an empty clip": (
        put("input_features_mask", masked_clip), r"input_features_mask: a clip has padding alone"),
    "types of other tokens": (
        put("mm_token_type_ids", lambda v: v[:, :-1]), r"mm_token_type_ids .*\[batch pos\] = "),
    "types of another kind than the ids": (
        put("mm_token_type_ids", lambda v: torch.where(v == media.IMAGE, media.VIDEO, v)),
        r"mm_token_type_ids at \[0, 3\] is 2 \(video\), and the token there is .*wanted the "
        r"model's video id there, or 0"),
    "types of words": (
        put("mm_token_type_ids", at((0, 0), 3)),
        r"mm_token_type_ids at \[0, 0\] is 3 \(audio\), .* stands for no audio"),
    "types of text at media": (
        put("mm_token_type_ids", torch.zeros_like),
        r"tokens hold 0 image tokens; pixel_values makes 7 soft tokens"),
    "types that are no types": (
        put("mm_token_type_ids", at((0, 0), 4)), r"mm_token_type_ids is Long .*0 \(text\), 1 \(im"),
    "types that are floats": (
        put("mm_token_type_ids", lambda v: v.float()), r"mm_token_type_ids is Float .*integers"),
    "pixels that are a list": (
        put("pixel_values", lambda v: v.tolist()), r"pixel_values is a list; wanted a tensor"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_media_that_do_not_fit_are_refused(lab: Lab, what: str) -> None:
    change, words = WRONG[what]
    inputs: Inputs = dict(media.widest_case("sound").inputs)
    bridge = lab.bridge("sound")
    bridge(inputs["input_ids"], **{k: v for k, v in inputs.items() if k != "input_ids"})
    change(inputs)
    tokens = inputs.pop("input_ids")
    with pytest.raises(ArgumentError, match=words):
        bridge(tokens, **inputs)
