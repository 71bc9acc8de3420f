"""Which token stands for what: text, or a part of an image, a video's frame or a clip."""

from __future__ import annotations

from typing import NamedTuple

import torch

from bezel import _C

TEXT, IMAGE, VIDEO, AUDIO = range(4)  # in mm_token_type_ids
WORDS = ("text", "image", "video", "audio")


class TokenTypes(NamedTuple):
    """Plain data of token ids, each tensor [batch pos] int64.

    Attributes:
        type: 0 text, 1 image, 2 video, 3 audio: what `mm_token_type_ids` holds.
        image: Which image a token stands for, counted from 0 over the whole batch, row by row, as
            `pixel_values` has them; -1 elsewhere.
        frame: Which frame of all videos, counted in the same way: of `pixel_values_videos` [video
            frame …] it is video * frames + frame; -1 elsewhere.
        clip: Which clip, as `input_features` has them; -1 elsewhere.

    Media are told apart by the tokens between them: two images, frames or clips whose tokens touch
    count as one.

    Example:
        >>> types = b.token_types(b.to_tokens("Emma knows"))
        >>> bool((types.image == -1).all())
        True
    """

    type: torch.Tensor
    image: torch.Tensor
    frame: torch.Tensor
    clip: torch.Tensor

    def __repr__(self) -> str:
        counts = [f"{name} {int(self[i].max()) + 1}" for i, name in enumerate(_COUNTED, start=1)]
        return f"TokenTypes({list(self.type.shape)}: {', '.join(counts)})"


_COUNTED = ("images", "frames", "clips")


def types_of(tokens: torch.Tensor, ids: _C.MediaIds) -> TokenTypes:
    """Of ids [batch pos]."""
    types = torch.zeros_like(tokens, dtype=torch.int64)
    numbers = []
    for kind, id in ((IMAGE, ids.image), (VIDEO, ids.video), (AUDIO, ids.audio)):
        here = torch.zeros_like(tokens, dtype=torch.bool) if id is None else tokens == id
        types[here] = kind
        numbers.append(_runs(here))
    return TokenTypes(types, *numbers)


def _runs(here: torch.Tensor) -> torch.Tensor:
    """The number of the run of neighbours that a place belongs to, row by row; -1 elsewhere."""
    before = torch.nn.functional.pad(here, (1, -1))
    begins = (here & ~before).flatten()
    return torch.where(here, begins.cumsum(0).view(here.shape) - 1, -1)
