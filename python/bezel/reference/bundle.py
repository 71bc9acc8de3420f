"""A reference bundle in memory: what the writer stores and the reader gives back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from bezel.names import TABLE
from bezel.reference.cases import Case
from bezel.reference.checkpoint import Fingerprint
from bezel.reference.greedy import Greedy
from bezel.reference.judging import Bfloat16, Logits
from bezel.reference.sampling import Kept

KIND = "bezel.Reference"
SCHEMA = 2
# In the order of a run, by how the names begin; other names of text have no beginning of their own.
_PARTS = (("hook_tokens", "hook_embed"), ("vision_",), ("audio_",), ("",))
_TEXT = len(_PARTS) - 1
_FIRST_IN_BLOCK = next(i for i, row in enumerate(TABLE) if row.in_block)
_RANK = {row.name: i for i, row in enumerate(TABLE)}
_BEHIND_ENCODERS = (
    "vision_encoder.hook_pooled",
    "vision_encoder.hook_out",
    "audio_encoder.hook_out",
)


@dataclass
class Outcome:
    """What the reference made of one case.

    Attributes:
        case: The input.
        acts: Values by hook name, in forward order.
        logits: Their summary.
        loss: Mean over neighbouring pairs of valid tokens.
        loss_per_token: float32 [batch pos-1]; 0 where a pair is not valid.
        bfloat16: The reference in bfloat16 against itself in float32, of the same rounded weights.
        bfloat16_stored: The same against the float32 run of this bundle, whose weights are as
            stored.
        greedy: The continuation.
    """

    case: Case
    acts: dict[str, Kept] = field(default_factory=dict)
    logits: Logits | None = None
    loss: float = 0.0
    loss_per_token: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    bfloat16: Bfloat16 = field(default_factory=Bfloat16)
    bfloat16_stored: Bfloat16 = field(default_factory=Bfloat16)
    greedy: Greedy | None = None


@dataclass
class Bundle:
    """All that a reference file holds.

    Attributes:
        config: The text of config.json.
        generation_config: The text of generation_config.json, or "".
        versions: Of transformers, torch and python.
        device: Where the reference ran.
        weights: A fingerprint of every tensor, by name.
        outcomes: Of every case, by its name.
    """

    config: str
    generation_config: str
    versions: dict[str, str]
    device: str
    weights: list[Fingerprint]
    outcomes: dict[str, Outcome]


def forward_order(names: Iterator[str]) -> list[str]:
    """Hook names in the order in which a run computes them."""

    def place(name: str) -> tuple[int, int, int, int]:
        part = next(i for i, beginning in enumerate(_PARTS) if name.startswith(beginning))
        _, is_in_block, row = name.partition("blocks.")
        if is_in_block:
            layer, _, row = row.partition(".")
            return part, 1, int(layer), _RANK[row]
        if part == _TEXT:
            is_behind = _RANK[name] > _FIRST_IN_BLOCK
        else:
            is_behind = name in _BEHIND_ENCODERS or "projector" in name
        return part, 2 if is_behind else 0, 0, _RANK[name]

    return sorted(names, key=place)
