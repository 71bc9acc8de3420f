"""The plain loop that a planned sweep must equal: one whole run for each cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

Setter = Callable[[torch.Tensor, Sequence[int], torch.Tensor], torch.Tensor]


def plain_sweep(
    bridge: Any,
    tokens: torch.Tensor,
    clean: Mapping[str, torch.Tensor],
    cells: Iterable[tuple[str, Sequence[int]]],
    setter: Setter,
    **arguments: Any,
) -> torch.Tensor:
    """Logits [cell batch pos d_vocab] of cells (full name, index)."""
    rows = []
    for name, index in cells:

        def patch(
            value: torch.Tensor, hook: Any, index: Sequence[int] = index, name: str = name
        ) -> torch.Tensor:
            return setter(value, index, clean[name])

        rows.append(bridge.run_with_hooks(tokens, [(name, patch)], **arguments))
    return torch.stack(rows)


class Recorder:
    """A metric that keeps every logits that it is given."""

    def __init__(self) -> None:
        self.logits: list[torch.Tensor] = []

    def __call__(self, logits: torch.Tensor) -> float:
        self.logits.append(logits.clone())
        return float(logits.float().mean())

    @property
    def of_cells(self) -> torch.Tensor:
        """[cell batch pos d_vocab]; the first call is of the unpatched run."""
        return torch.stack(self.logits[1:])
