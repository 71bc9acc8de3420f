"""The likeliest continuation of each case, with how far ahead each token was."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from bezel.reference.cases import Case
from bezel.reference.models import ReferenceModel, Stream


class Greedy(NamedTuple):
    """Of one case.

    Attributes:
        tokens: int64 [batch new]; the pad id behind a row's end.
        gap: float32 [batch new]; the largest logit minus the second, 0 behind a row's end.
    """

    tokens: torch.Tensor
    gap: torch.Tensor


class Ends(NamedTuple):
    """What ends a row, and what stands behind the end."""

    eos_ids: list[int]
    pad_id: int


def continue_greedily(
    model: ReferenceModel,
    cases: list[Case],
    n_new: int,
    ends: Ends,
    on_step: Callable[[], object] = lambda: None,
) -> list[Greedy]:
    """Runs all cases a step at a time. Rows that end in padding are moved to end together."""
    rows = [_Rows(case, model, n_new, ends) for case in cases]
    for step in range(n_new):
        running = [row for row in rows if row.is_open.any()]
        logits = model.next_logits([row.stream for row in running])
        for row, found in zip(running, logits, strict=True):
            row.take(step, found.float())
        on_step()
    return [row.result for row in rows]


class _Rows:
    """The rows of one case, and which of them go on."""

    def __init__(self, case: Case, model: ReferenceModel, n_new: int, ends: Ends) -> None:
        case = case.ending_together()
        batch = len(case.tokens)
        self.eos = torch.tensor(ends.eos_ids, dtype=torch.int64)
        self.pad = ends.pad_id
        self.is_open = torch.ones(batch, dtype=torch.bool)
        self.result = Greedy(
            torch.full((batch, n_new), ends.pad_id), torch.zeros(batch, n_new, dtype=torch.float32)
        )
        self.stream = Stream.of(case, model.new_cache())

    def take(self, step: int, logits: torch.Tensor) -> None:
        """The next token of each open row; logits [batch d_vocab]."""
        best = logits.topk(2, dim=-1).values
        chosen = torch.where(self.is_open, logits.argmax(-1), self.pad)
        self.result.tokens[:, step] = chosen
        self.result.gap[:, step] = (best[:, 0] - best[:, 1]) * self.is_open
        self.is_open &= ~torch.isin(chosen, self.eos)
        before = self.stream
        self.stream = Stream(
            chosen[:, None],
            torch.cat([before.attention_mask, torch.ones_like(chosen)[:, None]], dim=1),
            before.positions[:, -1:] + 1,
            cache=before.cache,
        )
