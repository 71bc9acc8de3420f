"""Prompts of different lengths in one batch, as a generation takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from support import fixtures

PAD = 0


@dataclass(frozen=True)
class Prompts:
    """Prompts of these lengths, which end together: padding stands left of them."""

    lengths: tuple[int, ...]
    seed: int = 0

    def mask(self, n_new: int = 0) -> torch.Tensor:
        """attention_mask [batch pos] of the prompts and n_new tokens behind them."""
        prompt = torch.arange(max(self.lengths)).flip(0) < torch.tensor(self.lengths)[:, None]
        new = torch.ones(len(self.lengths), n_new, dtype=torch.int64)
        return torch.cat([prompt.long(), new], 1)

    def tokens(self) -> torch.Tensor:
        """[batch pos], PAD at padding."""
        tokens = fixtures.tokens(max(self.lengths), len(self.lengths), self.seed)
        return tokens.masked_fill(self.mask() == 0, PAD)

    def generated(self, bridge: Any, n_new: int, **arguments: Any) -> Any:
        """What `generate` makes of them; rows end only at the eos ids that are given."""
        arguments.setdefault("stop_at_eos", "eos_token_id" in arguments)
        return bridge.generate(self.tokens(), n_new, attention_mask=self.mask(), **arguments)
