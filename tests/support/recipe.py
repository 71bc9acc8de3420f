"""What a fixture is made from: the sizes of a text model, and of the towers around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VOCAB = 160
# Media ids lie inside the tiny vocabulary, as the published ones lie inside theirs.
MEDIA_IDS = {
    "boi_token_id": VOCAB - 8,
    "eoi_token_id": VOCAB - 7,
    "image_token_id": VOCAB - 6,
    "video_token_id": VOCAB - 5,
    "boa_token_id": VOCAB - 4,
    "eoa_token_index": VOCAB - 3,
    "audio_token_id": VOCAB - 2,
}
FIRST_SPECIAL_ID = VOCAB - 8


@dataclass(frozen=True)
class Recipe:
    """layers: "s" sliding, "f" full; wrapper: the class around the text model, if any.

    vision, audio: Fields of those configs; None takes what `fixtures` has for every wrapper.
    """

    layers: str
    text: Mapping[str, Any]
    thetas: tuple[float, float] = (50.0, 1000.0)  # sliding, full
    wrapper: str = "none"  # none | gemma4 | gemma4_audio | unified
    seed: int = 1
    vision: Mapping[str, Any] | None = None
    audio: Mapping[str, Any] | None = None

    @property
    def window(self) -> int:
        return int(self.text["sliding_window"])
