"""What a bundle says of logits, and how far bfloat16 is from float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from bezel.reference.padding import Masks, hidden_in, wanted_axes, without
from bezel.reference.recorder import Values
from bezel.reference.sampling import Kept, Sample, keep_part, norm_of


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
            with the axis k, in slots that chose the same expert. Where a bundle keeps a part of the
            value: the error of the part, if that is larger (few numbers are a matter of luck).
        logits_relative_rms: Of the logits at valid positions.
        logits_kl: Mean KL divergence (float32 ‖ bfloat16) at valid positions.
        top1: Share of valid positions where both find the same likeliest token.
    """

    relative_rms: dict[str, float] = field(default_factory=dict)
    logits_relative_rms: float = 0.0
    logits_kl: float = 0.0
    top1: float = 0.0
    of_parts: dict[str, float] = field(default_factory=dict)  # as relative_rms, of parts alone

    def compare(self, got: Values, want: Values, masks: Masks, sample: Sample) -> None:
        """Adds some values of the two runs; head.Apart has those of the head."""
        for name, value in want.items():
            if value.is_floating_point():
                gap, theirs = _seen(name, got, want, masks)
                self.relative_rms[name] = _ratio(gap, theirs)
                gap, theirs = (keep_part(name, x, masks, sample).value for x in (gap, theirs))
                self.of_parts[name] = _ratio(gap, theirs) if theirs.any() else 0.0

    def settle(self, acts: Mapping[str, Kept]) -> None:
        """Takes the order of what a bundle keeps; of a part, the larger error."""
        self.relative_rms = {
            name: max(self.relative_rms[name], self.of_parts.get(name, 0.0) * kept.is_part)
            for name, kept in acts.items()
            if name in self.relative_rms
        }


def _seen(name: str, got: Values, want: Values, masks: Masks) -> tuple[torch.Tensor, torch.Tensor]:
    """The gap and the wanted value, with zeros where the two are not compared."""
    theirs = want[name]
    hidden = hidden_in(name, theirs, masks)
    axes = wanted_axes(name)
    if "k" in axes:
        choice = f"{name.rpartition('.moe.')[0]}.moe.hook_expert_indices"
        other = got[choice] != want[choice]
        other = other.reshape(*other.shape, *[1] * (len(axes) - other.ndim)).expand(theirs.shape)
        hidden = other if hidden is None else hidden | other
    return without(got[name] - theirs, hidden), without(theirs, hidden)


def _ratio(gap: torch.Tensor, theirs: torch.Tensor) -> float:
    size = norm_of(gap)
    return 0.0 if size == 0 else size / norm_of(theirs)
