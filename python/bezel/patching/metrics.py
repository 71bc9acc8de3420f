"""What a sweep measures of each run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import torch

from bezel.errors import ArgumentError

Metric: TypeAlias = Callable[[torch.Tensor], "torch.Tensor | float"]
Reduce: TypeAlias = Literal["scalar", "mean", "none"]


class Metrics:
    """One metric, or several by name, checked at each call.

    Attributes:
        names: ["metric"] for one function.
        is_mapping: True where they were given by name.
        is_by_row: True where each returns [batch] instead of a number.
    """

    def __init__(self, given: Metric | Mapping[str, Metric], reduce: Reduce) -> None:
        if reduce not in ("scalar", "mean", "none"):
            raise ArgumentError(f'reduce is {reduce!r}; wanted "scalar", "mean" or "none"')
        self.is_mapping = isinstance(given, Mapping)
        self._metrics = dict(given) if isinstance(given, Mapping) else {"metric": given}
        if not self._metrics:
            raise ArgumentError("the mapping of metrics is empty")
        self.names = list(self._metrics)
        self.is_by_row = reduce != "scalar"

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Of logits [batch pos d_vocab]: [metric batch?], float32 or float64."""
        rows = [self._one(name, metric, logits) for name, metric in self._metrics.items()]
        made = torch.stack(rows)
        return made if made.dtype == torch.float64 else made.float()

    def _one(self, name: str, metric: Metric, logits: torch.Tensor) -> torch.Tensor:
        value = metric(logits)
        if not isinstance(value, torch.Tensor):
            value = torch.tensor(value, dtype=torch.get_default_dtype())
        want = (logits.shape[0],) if self.is_by_row else ()
        if value.shape != want:
            more = (
                f"a tensor [batch], {list(want)}"
                if self.is_by_row
                else 'a number; for a tensor [batch] give reduce="mean" or "none"'
            )
            raise ArgumentError(f"{name} returned {list(value.shape)}; wanted {more}")
        return value.detach().to(logits.device)
