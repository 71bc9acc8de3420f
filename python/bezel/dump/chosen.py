"""The tokens of a batch that become rows, and what of the encoders' values is theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch

from bezel.arguments import MediaArguments, core_media
from bezel.dump.batches import Batch
from bezel.token_types import AUDIO, IMAGE, VIDEO

if TYPE_CHECKING:
    from bezel.bridge import Bridge
    from bezel.dump.corpus_media import Inputs

_NONE = torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True)
class Chosen:
    """Places in a run's values, on its device; a row for each chosen token.

    Attributes:
        kept: bool [batch pos]; None: all tokens.
        soft: int64 [row], which soft token of the vision encoder stands in the token's place.
        patches: int64 [row patch], places in image * patch of that soft token's patches.
        clip: int64 [row], of the sound that the token stands for.
        frame: int64 [row], of the clip.
    """

    kept: torch.Tensor | None
    soft: torch.Tensor = _NONE
    patches: torch.Tensor = _NONE
    clip: torch.Tensor = _NONE
    frame: torch.Tensor = _NONE

    @classmethod
    def of(cls, batch: Batch, media: Inputs, b: Bridge) -> Chosen:
        """The kept tokens of a batch. Those of encoders' values only where all are of its kind."""
        kept = None if batch.kept.all() else torch.from_numpy(batch.kept).to(b.device)
        if not media:
            return cls(kept)
        patches_of_soft, is_soft = soft_tokens(b, media)
        types = torch.from_numpy(batch.type)
        here, of_kept = torch.from_numpy(batch.kept), types[torch.from_numpy(batch.kept)]
        if bool((of_kept == AUDIO).all()) and is_soft is not None:
            number = _number(types == AUDIO)[here].to(b.device)
            clip, frame = is_soft.nonzero()[number].unbind(1)
            return cls(kept, clip=clip, frame=frame)
        if bool(((of_kept == IMAGE) | (of_kept == VIDEO)).all()) and patches_of_soft is not None:
            still = types == IMAGE  # images stand before videos, whatever the order of the tokens
            moving = _number(types == VIDEO) + int(still.sum())
            soft = torch.where(still, _number(still), moving)[here].to(b.device)
            return cls(kept, soft, patches_of_soft[soft])
        return cls(kept)


def soft_tokens(b: Bridge, media: Inputs) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """int64 [soft patch], places in image * patch; bool [audio frame], which become soft tokens."""
    return b._core.soft_tokens(core_media(cast(MediaArguments, media)))


def _number(here: torch.Tensor) -> torch.Tensor:
    """Which one of them a place is, row by row."""
    return here.flatten().cumsum(0).view(here.shape) - 1
