"""Where a value carries no promise: at padding, and, of scores, where no attention can go."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from bezel.cache_values import axes_of

# By an axis that can have padding: bool [batch pos], [image patch], [audio frame] …
Masks = dict[str, torch.Tensor]
POSITION = {
    "pos": "pos", "q_pos": "pos", "k_pos": "pos",
    "patch": "patch", "q_patch": "patch", "k_patch": "patch",
    "mel_frame": "mel_frame", "half_frame": "half_frame", "frame": "frame",
}  # fmt: skip
_HIDDEN_BELOW = -1e8  # no score that is seen: -1e9 in sound, the lowest number of a dtype elsewhere


def masks_of_media(media: Mapping[str, torch.Tensor], encodes_sound: bool) -> Masks:
    """Of patches, images first and then the frames of videos, and of frames of sound.

    Args:
        media: Forward arguments.
        encodes_sound: False where frames are soft tokens as they were given.
    """
    masks: Masks = {}
    grids = [media[key] for key in ("image_position_ids", "video_position_ids") if key in media]
    if grids:
        is_given = [(grid.flatten(0, -3) != -1).all(dim=-1) for grid in grids]
        longest = max(mask.shape[1] for mask in is_given)
        masks["patch"] = torch.cat([F.pad(x, (0, longest - x.shape[1])) for x in is_given])
    if "input_features_mask" in media:
        given = media["input_features_mask"].bool()
        masks["frame"] = given[:, ::4] if encodes_sound else given
        if encodes_sound:
            masks |= {"mel_frame": given, "half_frame": given[:, ::2]}
    return masks


def wanted_axes(name: str) -> tuple[str, ...]:
    """The axis words of a name of the table."""
    axes = axes_of(name)
    if axes is None:
        raise AssertionError(f"{name} is not in the table")
    return axes


def hidden_in(name: str, value: torch.Tensor, masks: Masks) -> torch.Tensor | None:
    """True at padding and, of scores, where no attention can go; None where nothing is hidden."""
    hidden = None
    axes = wanted_axes(name)
    for dim, axis in enumerate(axes):
        valid = _along(axis, dim, value, masks)
        if valid is not None and not valid.all():
            hidden = ~valid if hidden is None else hidden | ~valid
    if name.endswith("attn.hook_attn_scores"):
        unseen = value < _HIDDEN_BELOW
        hidden = unseen if hidden is None else hidden | unseen
    return None if hidden is None else hidden.expand(value.shape)


def _along(axis: str, dim: int, value: torch.Tensor, masks: Masks) -> torch.Tensor | None:
    """The mask of an axis, in a shape that goes with the value; None where all is valid."""
    shape = [1] * value.ndim
    if axis == "q_frame":  # [audio head chunk q_frame k_frame]; keys that are not seen get no score
        n_chunks, length = value.shape[2], value.shape[3]
        valid = masks["frame"]
        valid = F.pad(valid, (0, n_chunks * length - valid.shape[1]))
        shape[0], shape[2], shape[3] = len(valid), n_chunks, length
        return valid.reshape(shape)
    if axis not in POSITION:
        return None
    valid = masks[POSITION[axis]]
    shape[0], shape[dim] = valid.shape
    return valid.reshape(shape)


def without(value: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor:
    """The value with zeros where it is hidden."""
    return value if hidden is None else value.masked_fill(hidden, 0)
