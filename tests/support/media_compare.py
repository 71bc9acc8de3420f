"""How values of towers are compared: where a patch, a frame or a token is, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch.nn import functional as F

from support.compare import RELATIVE_RMS, Values, relative_rms
from support.hook_table import Point
from support.media import MediaCase

# Below every score that is seen: the lowest number of a dtype, and -1e9 in the audio tower.
_MASKED_BELOW = -1e8
Masks = dict[str, torch.Tensor]


def _patch_mask(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """[image patch]: images first, then frames, as one run of the tower has them."""
    parts = []
    if "image_position_ids" in inputs:
        parts.append(inputs["image_position_ids"])
    if "video_position_ids" in inputs:
        parts.append(inputs["video_position_ids"].flatten(0, 1))
    if not parts:
        return None
    masks = [(part != -1).all(dim=-1) for part in parts]
    longest = max(mask.shape[1] for mask in masks)
    return torch.cat([F.pad(mask, (0, longest - mask.shape[1])) for mask in masks])


def masks_of(case: MediaCase) -> Masks:
    """Where something is, by the axis that has padding."""
    masks = {"pos": case.valid}
    if (patches := _patch_mask(case.inputs)) is not None:
        masks["patch"] = patches
    if "input_features_mask" in case.inputs:
        given = case.inputs["input_features_mask"]
        masks |= {"mel_frame": given, "half_frame": given[:, ::2], "frame": given[:, ::4]}
    return masks


def valid_entries(point: Point, value: torch.Tensor, masks: Masks) -> torch.Tensor:
    """The entries that carry a promise; query and key axes are both cut."""
    axes = point.axes
    if axes[0] == "soft":
        return value
    if "chunk" in axes:  # [audio head chunk q_frame k_frame]; unseen keys are masked by value
        by_query = value.movedim(1, 3)
        mask = masks["frame"]
        mask = F.pad(mask, (0, by_query.shape[1] * by_query.shape[2] - mask.shape[1]))
        return by_query[mask.view(by_query.shape[:3])]
    if axes[2:] in (("q_pos", "k_pos"), ("q_patch", "k_patch")):
        mask = masks[axes[2].removeprefix("q_")]
        rows = [row[:, keep][:, :, keep].flatten() for row, keep in zip(value, mask, strict=True)]
        return torch.cat(rows)
    axis = axes[1] if axes[1] != "k_pos" else "pos"
    mask = masks[axis]
    if point.name.startswith("audio_projector.") and mask.shape[1] != value.shape[1]:
        mask = masks["mel_frame"]  # no tower: the frames are those that were given
    return value[mask]


def error(point: Point, got: torch.Tensor, want: torch.Tensor, masks: Masks) -> float:
    """Relative RMS error; infinite when shapes, integers or masked places differ."""
    if got.shape != want.shape:
        return float("inf")
    got, want = valid_entries(point, got, masks), valid_entries(point, want, masks)
    if not want.is_floating_point():
        return 0.0 if torch.equal(got, want) else float("inf")
    if point.name.endswith("hook_attn_scores"):
        seen = want > _MASKED_BELOW
        if not torch.equal(got > _MASKED_BELOW, seen):
            return float("inf")
        got, want = got[seen], want[seen]
    return relative_rms(got, want)


def disagreements(
    points: Iterable[Point], got: Values, want: Values, masks: Masks, gate: float = RELATIVE_RMS
) -> list[str]:
    """One line for each name whose error is above the gate."""
    errors = (
        (point.name, error(point, got[point.name], want[point.name], masks)) for point in points
    )
    return [f"{name}: error {gap:.2e}" for name, gap in errors if not gap <= gate]
