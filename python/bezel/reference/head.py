"""Unembedding and logits of one case, some positions at a time: a row of them can be a megabyte."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import torch

from bezel.reference.cases import Case
from bezel.reference.judging import Bfloat16, Logits
from bezel.reference.padding import hidden_in, without
from bezel.reference.recorder import Values
from bezel.reference.sampling import Kept, Sample, norm_of, spread

HEAD = ("hook_unembed", "hook_logits")
TOP = 64
_N_FULL = 4  # positions whose logits are kept in full
_BLOCK_BYTES = 64 << 20  # of logits in float32
_ROWS_AT_ONCE = 64  # of logits, widened to float64 …
_WIDE_BYTES = 64 << 20  # … but no more than this


class Block(NamedTuple):
    """Neighbouring positions of one case, from begin up to end."""

    begin: int
    end: int

    @property
    def places(self) -> slice:
        """Along the axis of positions."""
        return slice(self.begin, self.end)

    def of(self, positions: torch.Tensor) -> torch.Tensor:
        """Those that lie inside, counted from its begin."""
        return positions[(positions >= self.begin) & (positions < self.end)] - self.begin


def rows_at_once(d_vocab: int) -> int:
    """How many rows of logits may be in memory together, of one run."""
    return max(1, _BLOCK_BYTES // (4 * d_vocab))


def blocks_of(batch: int, length: int, d_vocab: int) -> list[Block]:
    """The blocks of a case; a small case is one."""
    n = max(1, rows_at_once(d_vocab) // batch)
    return [Block(begin, min(begin + n, length)) for begin in range(0, length, n)]


def _widened(rows: torch.Tensor, *values: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Those rows of values [row d_vocab] as they are, some at a time."""
    n = max(1, min(_ROWS_AT_ONCE, _WIDE_BYTES // (8 * values[0].shape[-1])))
    for begin in range(0, len(rows), n):
        yield tuple(x.index_select(0, rows[begin : begin + n]) for x in values)


class Apart:
    """How far the head of a run in bfloat16 is from that of one in float32."""

    def __init__(self) -> None:
        """Nothing compared yet."""
        self.gaps: dict[str, list[float]] = defaultdict(list)
        self.sizes: dict[str, list[float]] = defaultdict(list)
        self.kl, self.n_alike, self.n_rows = 0.0, 0, 0

    def take(self, got: Values, want: Values, valid: torch.Tensor) -> None:
        """A block [batch pos d_vocab] of both runs; valid [batch pos]."""
        for name in HEAD:
            hidden = hidden_in(name, want[name], {"pos": valid})
            self.gaps[name].append(norm_of(without(got[name] - want[name], hidden)))
            self.sizes[name].append(norm_of(without(want[name], hidden)))
        rows = valid.flatten().nonzero().flatten()
        logits = (x["hook_logits"].flatten(0, 1) for x in (want, got))
        for theirs, ours in _widened(rows, *logits):
            log_p, log_q = (x.double().log_softmax(-1) for x in (theirs, ours))
            self.kl += float((log_p.exp() * (log_p - log_q)).sum())
            self.n_alike += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        self.n_rows += len(rows)

    def put_into(self, found: Bfloat16) -> None:
        """What all blocks say together."""
        for name in HEAD:
            gap = math.hypot(*self.gaps[name])
            found.relative_rms[name] = 0.0 if gap == 0 else gap / math.hypot(*self.sizes[name])
        found.logits_relative_rms = found.relative_rms["hook_logits"]
        found.logits_kl = self.kl / max(1, self.n_rows)
        found.top1 = self.n_alike / max(1, self.n_rows)


class Head:
    """What a bundle keeps of the unembedding, the logits and the loss of one case."""

    def __init__(self, case: Case, sample: Sample | None, d_vocab: int) -> None:
        """`sample` None keeps all of both values."""
        length = case.tokens.shape[1]
        n_positions, n_dims = sample or Sample(length, d_vocab)
        self.case, self.shape = case, (len(case.tokens), length, d_vocab)
        self.positions, self.dims = spread(n_positions, length), spread(n_dims, d_vocab)
        self.full_at = spread(_N_FULL, length)
        self.parts: dict[str, list[torch.Tensor]] = defaultdict(list)
        self.norms: dict[str, list[float]] = defaultdict(list)
        self.sums: dict[str, list[float]] = defaultdict(list)
        self.losses = torch.zeros(len(case.tokens), length - 1, dtype=torch.float64)

    def take(self, block: Block, values: Values) -> None:
        """The next positions of both, [batch pos d_vocab]."""
        for name in HEAD:
            self._keep(name, block, values[name])
        logits = values["hook_logits"]
        top = logits.topk(min(TOP, logits.shape[-1]), dim=-1)
        rows = logits.flatten(0, 1)
        sums = [x.double().logsumexp(-1) for (x,) in _widened(torch.arange(len(rows)), rows)]
        sum_exp = torch.cat(sums).reshape(logits.shape[:2])
        self.parts["top_ids"].append(top.indices)
        self.parts["top_values"].append(top.values)
        self.parts["log_sum_exp"].append(sum_exp.float())
        self.parts["full"].append(logits.index_select(1, block.of(self.full_at)))
        self._add_losses(block, logits, sum_exp)

    def _keep(self, name: str, block: Block, value: torch.Tensor) -> None:
        if self.is_whole:
            self.parts[name].append(value)
            return
        part = value.index_select(1, block.of(self.positions)).index_select(2, self.dims)
        seen = without(value, hidden_in(name, value, {"pos": self.case.valid[:, block.places]}))
        self.parts[name].append(part)
        self.norms[name].append(norm_of(seen))
        self.sums[name].append(float(seen.sum(dtype=torch.float64)))

    def _add_losses(self, block: Block, logits: torch.Tensor, sum_exp: torch.Tensor) -> None:
        labels = self.case.tokens[:, block.begin + 1 : block.end + 1]
        n = labels.shape[1]  # the last position of the case has none
        of_labels = logits[:, :n].gather(-1, labels[:, :, None])[:, :, 0]
        self.losses[:, block.begin : block.begin + n] = sum_exp[:, :n] - of_labels.double()

    @property
    def is_whole(self) -> bool:
        """True where nothing of the values is left out."""
        return (len(self.positions), len(self.dims)) == self.shape[1:]

    def kept(self, name: str) -> Kept:
        """One of HEAD."""
        value = self._joined(name)
        if self.is_whole:
            return Kept(value)
        norm, total = math.hypot(*self.norms[name]), sum(self.sums[name])
        return Kept(value, self.positions, self.dims, norm, total)

    def logits(self) -> Logits:
        """Their summary."""
        return Logits(
            self._joined("top_ids"), self._joined("top_values"), self._joined("log_sum_exp"),
            self.full_at, self._joined("full"),
        )  # fmt: skip

    def loss(self) -> tuple[float, torch.Tensor]:
        """The mean over neighbours whose both tokens are valid; float32 [batch pos-1], else 0."""
        valid = self.case.valid
        pairs = valid[:, 1:] & valid[:, :-1]
        found = self.losses[pairs]
        per_token = torch.zeros(pairs.shape).masked_scatter(pairs, found.float())
        return float(found.mean()) if len(found) else 0.0, per_token

    def _joined(self, name: str) -> torch.Tensor:
        parts = self.parts[name]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).contiguous()
