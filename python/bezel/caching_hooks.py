"""The hook function of `get_caching_hooks`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bezel.errors import ArgumentError
from bezel.hooks import Hook
from bezel.selection import PosSlice, start_stop_step


@dataclass
class Saver:
    """Keeps what it is given under the name of the hook; "<name>_grad" for gradients.

    Attributes:
        kept: Values by name.
        axes: The axis words of every name.
        device: Where values are kept; None leaves them.
        remove_batch_dim: Drop the batch axis.
        pos_slice: What to keep of the axes pos and q_pos.
    """

    kept: dict[str, torch.Tensor]
    axes: dict[str, tuple[str, ...]]
    device: torch.device | None
    remove_batch_dim: bool
    pos_slice: PosSlice | None

    def __call__(self, value: torch.Tensor, hook: Hook) -> None:
        """Keeps a copy of the value, whatever the run does with its own."""
        axes = self.axes[hook.name]
        part = self._cut(value.detach(), axes)
        if self.remove_batch_dim and axes[0] == "batch":
            if part.shape[0] != 1:
                raise ArgumentError(
                    f"remove_batch_dim: the batch has {part.shape[0]} rows; wanted 1"
                )
            part = part[0]
        copy = torch.empty_like(part, device=self.device, memory_format=torch.contiguous_format)
        self.kept[hook.name + ("_grad" if hook.dir == "bwd" else "")] = copy.copy_(part)

    def _cut(self, value: torch.Tensor, axes: tuple[str, ...]) -> torch.Tensor:
        if self.pos_slice is None:
            return value
        start, stop, step = start_stop_step(self.pos_slice)
        for dim, axis in enumerate(axes):
            if axis not in ("pos", "q_pos"):
                continue
            places = range(*slice(start, stop, step).indices(value.shape[dim]))
            if step < 1 or not places:
                raise ArgumentError(
                    f"pos_slice={self.pos_slice!r} keeps no position of {value.shape[dim]}; it "
                    "needs a step of at least 1 and a start before its stop"
                )
            value = value.narrow(dim, places[0], places[-1] - places[0] + 1)
            value = value[(slice(None),) * dim + (slice(None, None, step),)]
        return value
