"""Clip bounds that bite: each is a quantile of what reaches it in one run of the model.

Bounds drawn at random would leave some linears alone, whose clipping could then be forgotten.
"""

from __future__ import annotations

import functools
import zlib
from typing import Any

import torch
from torch import nn

from support.media import MediaCase

_SHARES = (0.02, 0.06)  # of the values beyond each bound
_STEPS = 64  # bounds lie between such fractions of one: never on a neutral value


def _bounds(values: torch.Tensor, rng: torch.Generator) -> tuple[float, float]:
    low, high = _SHARES
    shares = (torch.rand(2, generator=rng) * (high - low) + low).tolist()
    found = values.flatten().double()
    ends = (found.quantile(shares[0]).item(), found.quantile(1 - shares[1]).item())
    below, above = ((int(end * _STEPS // 1) + 0.5) / _STEPS for end in ends)
    return below, above


def _bite(name: str, seed: int, module: Any, args: tuple[torch.Tensor, ...]) -> None:
    """Sets the bounds of a linear when its first input comes, before it computes."""
    rng = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))

    def set_bounds(side: str, values: torch.Tensor) -> torch.Tensor:
        low, high = _bounds(values, rng)
        getattr(module, f"{side}_min").fill_(low)
        getattr(module, f"{side}_max").fill_(high)
        return values.clamp(low, high)

    set_bounds("output", module.linear(set_bounds("input", args[0])))


@torch.no_grad()
def make_clips_bite(model: nn.Module, case: MediaCase, seed: int) -> None:
    """Sets every clip bound of the towers, in the order in which the case meets them."""
    handles: dict[str, Any] = {}

    def once(name: str, module: Any, args: tuple[torch.Tensor, ...]) -> None:
        handles[name].remove()
        _bite(name, seed, module, args)

    for name, module in model.named_modules():
        if hasattr(module, "input_min"):
            see = functools.partial(once, name)
            handles[name] = module.register_forward_pre_hook(see)
    if handles:
        model(**case.inputs)
