"""What a bundle says of logits, and how far bfloat16 is from float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from bezel.reference.recorder import Values
from bezel.reference.sampling import hidden_in, norm_of, spread, wanted_axes, without

TOP = 64
_N_FULL = 4  # positions whose logits are kept in full
_ROWS_AT_ONCE = 64  # of logits, widened to float64


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

    def compare(self, got: Values, want: Values, valid: torch.Tensor) -> None:
        """Adds some values of the two runs."""
        for name, value in want.items():
            if value.is_floating_point():
                self.relative_rms[name] = _relative_rms(name, got, want, valid)
        if "hook_logits" in want:
            ours, theirs = (x["hook_logits"][valid] for x in (got, want))
            self.logits_relative_rms = self.relative_rms["hook_logits"]
            self.logits_kl = _kl(theirs, ours)
            self.top1 = float((ours.argmax(-1) == theirs.argmax(-1)).double().mean())


def _relative_rms(name: str, got: Values, want: Values, valid: torch.Tensor) -> float:
    theirs = want[name]
    hidden = hidden_in(name, theirs, valid)
    axes = wanted_axes(name)
    if "k" in axes:
        choice = f"{name.rpartition('.moe.')[0]}.moe.hook_expert_indices"
        other = got[choice] != want[choice]
        other = other.reshape(*other.shape, *[1] * (len(axes) - other.ndim)).expand(theirs.shape)
        hidden = other if hidden is None else hidden | other
    gap = norm_of(without(got[name] - theirs, hidden))
    return 0.0 if gap == 0 else gap / norm_of(without(theirs, hidden))


def _widened(*logits: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Rows [row d_vocab] in float64, some at a time."""
    for begin in range(0, logits[0].shape[0], _ROWS_AT_ONCE):
        yield tuple(x[begin : begin + _ROWS_AT_ONCE].double() for x in logits)


def _kl(p: torch.Tensor, q: torch.Tensor) -> float:
    total = 0.0
    for p_rows, q_rows in _widened(p, q):
        log_p, log_q = p_rows.log_softmax(-1), q_rows.log_softmax(-1)
        total += float((log_p.exp() * (log_p - log_q)).sum())
    return total / max(1, len(p))


def summarise(logits: torch.Tensor) -> Logits:
    """Of logits [batch pos d_vocab]."""
    batch, length, d_vocab = logits.shape
    top = logits.topk(min(TOP, d_vocab), dim=-1)
    sums = torch.cat([x.logsumexp(-1) for (x,) in _widened(logits.flatten(0, 1))])
    positions = spread(_N_FULL, length)
    return Logits(
        top.indices,
        top.values.contiguous(),
        sums.float().reshape(batch, length),
        positions,
        logits.index_select(1, positions),
    )


def loss_of(
    logits: torch.Tensor, tokens: torch.Tensor, valid: torch.Tensor
) -> tuple[float, torch.Tensor]:
    """The mean over neighbours whose both tokens are valid; float32 [batch pos-1], 0 elsewhere."""
    pairs = valid[:, 1:] & valid[:, :-1]
    rows, labels = logits[:, :-1][pairs], tokens[:, 1:][pairs]
    losses = [x.logsumexp(-1) for (x,) in _widened(rows)]
    wide = torch.cat(losses) if losses else torch.zeros(0, dtype=torch.float64)
    wide = wide - rows.gather(-1, labels[:, None]).double()[:, 0]
    per_token = torch.zeros(pairs.shape).masked_scatter(pairs, wide.float())
    return float(wide.mean()) if len(wide) else 0.0, per_token
