"""What a bundle says of logits, and how far bfloat16 is from float32."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from bezel.reference.padding import Masks, hidden_in, wanted_axes, without
from bezel.reference.recorder import Values
from bezel.reference.sampling import norm_of


@dataclass(frozen=True)
class Logits:
    """Of one case.

    Attributes:
        top_ids: int64 [batch pos rank]; the likeliest first.
        top_values: float32 [batch pos rank].
        log_sum_exp: float32 [batch pos].
        positions: int64 [pos]; those of `full`.
        full: float32 [batch pos d_vocab].
    """

    top_ids: torch.Tensor
    top_values: torch.Tensor
    log_sum_exp: torch.Tensor
    positions: torch.Tensor
    full: torch.Tensor


@dataclass
class Bfloat16:
    """How far the reference in bfloat16 is from a float32 run.

    Attributes:
        relative_rms: By name, over valid positions; of scores, where attention can go; of values
            with the axis k, in slots that chose the same expert.
        logits_relative_rms: Of the logits at valid positions.
        logits_kl: Mean KL divergence (float32 ‖ bfloat16) at valid positions.
        top1: Share of valid positions where both find the same likeliest token.
    """

    relative_rms: dict[str, float] = field(default_factory=dict)
    logits_relative_rms: float = 0.0
    logits_kl: float = 0.0
    top1: float = 0.0

    def compare(self, got: Values, want: Values, masks: Masks) -> None:
        """Adds some values of the two runs; head.Apart has those of the head."""
        for name, value in want.items():
            if value.is_floating_point():
                self.relative_rms[name] = _relative_rms(name, got, want, masks)


def _relative_rms(name: str, got: Values, want: Values, masks: Masks) -> float:
    theirs = want[name]
    hidden = hidden_in(name, theirs, masks)
    axes = wanted_axes(name)
    if "k" in axes:
        choice = f"{name.rpartition('.moe.')[0]}.moe.hook_expert_indices"
        other = got[choice] != want[choice]
        other = other.reshape(*other.shape, *[1] * (len(axes) - other.ndim)).expand(theirs.shape)
        hidden = other if hidden is None else hidden | other
    gap = norm_of(without(got[name] - theirs, hidden))
    return 0.0 if gap == 0 else gap / norm_of(without(theirs, hidden))
