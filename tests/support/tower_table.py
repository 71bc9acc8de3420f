"""The hook points of towers and projectors as a second, independent table, by rule.

A vision block has the names of a text block that owns its keys and has no experts; the other rows
are written out. As in hook_table, the tests compare it with the library's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.hook_table import LAYER_ROWS, Point

_AXES = {
    "batch": "image", "pos": "patch", "q_pos": "q_patch", "k_pos": "k_patch", "d_model": "d_vision",
}  # fmt: skip

# name | axes
_VISION = """
vision_encoder.hook_patches   | image patch d_patch
vision_encoder.hook_embed     | image patch d_vision
vision_encoder.hook_pos_embed | image patch d_vision
vision_encoder.hook_pooled    | soft d_vision
vision_encoder.hook_out       | soft d_vision
"""
_EMBEDDER = """
vision_embedder.hook_patches   | image patch d_patch
vision_embedder.hook_ln1       | image patch d_patch
vision_embedder.hook_dense     | image patch d_vision
vision_embedder.hook_ln2       | image patch d_vision
vision_embedder.hook_pos_embed | image patch d_vision
vision_embedder.hook_out       | image patch d_vision
"""
_VISION_PROJECTOR = """
vision_projector.hook_in         | soft d_vision
vision_projector.hook_scale      | soft 1
vision_projector.hook_normalized | soft d_vision
vision_projector.hook_out        | soft d_model
"""
_AUDIO = """
audio_encoder.hook_features        | audio mel_frame mel
audio_encoder.subsample.0.hook_out | audio half_frame half_mel channel_0
audio_encoder.subsample.1.hook_out | audio frame quarter_mel channel_1
audio_encoder.hook_embed           | audio frame d_audio
audio_encoder.hook_out             | audio frame d_audio_out
"""
_AUDIO_BLOCK = """
hook_resid_pre        | audio frame d_audio
ff1.hook_pre          | audio frame d_mlp
ff1.hook_post         | audio frame d_mlp
ff1.hook_out          | audio frame d_audio
attn.hook_q           | audio frame head d_head
attn.hook_k           | audio frame head d_head
attn.hook_v           | audio frame head d_head
attn.hook_attn_scores | audio head chunk q_frame k_frame
attn.hook_pattern     | audio head chunk q_frame k_frame
attn.hook_z           | audio frame head d_head
hook_attn_out         | audio frame d_audio
conv.hook_pre         | audio frame d_glu
conv.hook_glu         | audio frame d_audio
conv.hook_conv        | audio frame d_audio
conv.hook_out         | audio frame d_audio
ff2.hook_pre          | audio frame d_mlp
ff2.hook_post         | audio frame d_mlp
ff2.hook_out          | audio frame d_audio
hook_resid_post       | audio frame d_audio
"""
_AUDIO_PROJECTOR = """
audio_projector.hook_in         | audio frame d_audio_out
audio_projector.hook_scale      | audio frame 1
audio_projector.hook_normalized | audio frame d_audio_out
audio_projector.hook_out        | audio frame d_model
"""


def _points(table: str, prefix: str = "", layer: int | None = None) -> list[Point]:
    rows = [line.split("|") for line in table.strip().splitlines()]
    return [
        Point(prefix + name.strip(), tuple(axes.split()), layer, on_demand=False)
        for name, axes in rows
    ]


def rows_outside_of_blocks() -> set[tuple[str, tuple[str, ...], str]]:
    """(name, axes, where) of every kind of tower."""
    tables = {
        "vision": _VISION, "vision_embedder": _EMBEDDER, "vision_projector": _VISION_PROJECTOR,
        "audio": _AUDIO, "audio_projector": _AUDIO_PROJECTOR,
    }  # fmt: skip
    return {
        (point.name, point.axes, where)
        for where, table in tables.items()
        for point in _points(table)
    }


def rows_of_blocks(part: str) -> set[tuple[str, tuple[str, ...]]]:
    """(name, axes) in a block of "vision" or "audio"."""
    points = _vision_block(0) if part == "vision" else _points(_AUDIO_BLOCK, "x.blocks.0.")
    return {(point.name.partition("blocks.0.")[2], point.axes) for point in points}


def _vision_block(layer: int) -> list[Point]:
    return [
        Point(
            f"vision_encoder.blocks.{layer}.{row.name}",
            tuple(_AXES.get(axis, axis) for axis in row.axes),
            layer,
            row.on_demand,
        )
        for row in LAYER_ROWS
        if row.where in ("block", "block_kv", "layer", "own_kv")
    ]


def vision_points(config: Any) -> list[Point]:
    """What exists for images and frames in a model of this config."""
    if "unified" in config.model_type:
        return _points(_EMBEDDER + _VISION_PROJECTOR.strip())
    points = _points(_VISION + _VISION_PROJECTOR.strip())
    for layer in range(config.vision_config.num_hidden_layers):
        points += _vision_block(layer)
    return points


def audio_points(config: Any) -> list[Point]:
    """What exists for sounds."""
    if "unified" in config.model_type:
        return _points(_AUDIO_PROJECTOR)
    points = _points(_AUDIO + _AUDIO_PROJECTOR.strip())
    for layer in range(config.audio_config.num_hidden_layers):
        points += _points(_AUDIO_BLOCK, f"audio_encoder.blocks.{layer}.", layer)
    return points


def tower_points(config: Any, inputs: Mapping[str, Any]) -> list[Point]:
    """The names of the towers that run on these forward arguments."""
    points: list[Point] = []
    if "pixel_values" in inputs or "pixel_values_videos" in inputs:
        points += vision_points(config)
    if "input_features" in inputs:
        points += audio_points(config)
    return points
