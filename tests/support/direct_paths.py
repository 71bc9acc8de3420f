"""Direct paths by hand: the change of the stream, put before one reader. And what measures them."""

from __future__ import annotations

import math
from typing import Any

import torch

from bezel.patching import path_patch
from support import fixtures
from support.hook_table import of_text

LENGTH = 7
CORRUPTED = fixtures.tokens(LENGTH)
CLEAN = fixtures.tokens(LENGTH, seed=3)


def metric(logits: torch.Tensor) -> torch.Tensor:
    return (logits[:, -1, 5] - 2 * logits[:, -2, 9]).sum()


def added(by: torch.Tensor) -> Any:
    return lambda value, hook: value + by


def put(value: torch.Tensor) -> Any:
    return lambda old, hook: value


def close(got: float, want: float, gap: float) -> bool:
    return abs(got - want) <= gap * max(1.0, abs(want))


class DirectPaths:
    """What is put where, in runs of one Bridge."""

    def __init__(self, bridge: Any) -> None:
        self.bridge = bridge
        names = [point.name for point in of_text(bridge.hook_points())]  # those on demand too
        self.clean = bridge.run_with_cache(CLEAN, names)[1]
        self.corrupted = bridge.run_with_cache(CORRUPTED, names)[1]
        self.scalars = bridge.layer_scalars.tolist()

    def change(self, at: str, hooks: Any) -> torch.Tensor:
        return self.read(at, hooks) - self.corrupted[at]

    def arriving(self, change: torch.Tensor, first: int, block: int) -> torch.Tensor:
        return change * math.prod(self.scalars[first:block])

    def read(self, at: str, hooks: Any) -> torch.Tensor:
        return self.bridge.run_with_cache(CORRUPTED, at, fwd_hooks=hooks)[1][at]

    def measure(self, *hooks: Any) -> float:
        return float(metric(self.bridge.run_with_hooks(CORRUPTED, list(hooks))))

    def got(self, sender: Any, receivers: Any, **arguments: Any) -> float:
        patched = path_patch(
            self.bridge, CORRUPTED, CLEAN, sender=sender, receivers=receivers, metric=metric,
            **arguments,
        )  # fmt: skip
        return float(patched)
