"""How single components are read, stacked and labelled; the same for heads and neurons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch

from bezel.cache_slice import Cut
from bezel.cache_values import CachedValues
from bezel.decomposition_checks import check_norm
from bezel.decomposition_inputs import Weights, model_of, wide
from bezel.errors import ArgumentError

Labelled: TypeAlias = tuple[list[torch.Tensor], list[str]]  # stacks [part …], and all their labels


@dataclass(frozen=True)
class Reading:
    """How parts are read at last: through a norm at its recorded scale, and onto directions."""

    gain: torch.Tensor | None = None  # [d_model]
    scale: torch.Tensor | None = None  # [batch pos 1]
    onto: torch.Tensor | None = None  # [d_model out]

    def of_stack(self, stack: torch.Tensor) -> torch.Tensor:
        """[part … d_model] → [part … d_model | out]."""
        if self.gain is not None and self.scale is not None:
            stack = stack / self.scale * self.gain
        return stack if self.onto is None else stack @ self.onto.to(stack)

    def of_products(self, factors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Factors [… n] of rows [n d_model] → [… n d_model | out]; projects before it expands."""
        if self.gain is not None and self.scale is not None:
            factors, rows = factors / self.scale, rows * self.gain
        rows = rows if self.onto is None else rows @ self.onto.to(rows)
        return factors.unsqueeze(-1) * rows


def reading_of(
    cache: CachedValues, layer: int, mlp_input: bool, positions: Cut, apply_ln: bool
) -> Reading:
    """Through the norm of `layer` at its recorded scale with apply_ln; else as the parts are."""
    if not apply_ln:
        return Reading()
    norm = check_norm(cache, layer, mlp_input)
    scale = norm.scale(cache, positions)
    return Reading(Weights(model_of(cache)).beside(norm.slot, scale), scale)


def projection(cache: CachedValues, given: torch.Tensor | None) -> torch.Tensor | None:
    """project_output_onto as [d_model out]. Raises ArgumentError for another shape."""
    if given is None:
        return None
    d_model = cache.origin.spec["d_model"]
    if given.ndim not in (1, 2) or given.shape[0] != d_model or not given.is_floating_point():
        raise ArgumentError(
            f"project_output_onto is {given.dtype} {list(given.shape)}; wanted floats [{d_model}] "
            f"or [{d_model}, outputs]"
        )
    return given.unsqueeze(-1) if given.ndim == 1 else given


def squeezed(result: torch.Tensor, given: torch.Tensor | None) -> torch.Tensor:
    """Without the last axis where one direction was given as [d_model]."""
    return result.squeeze(-1) if given is not None and given.ndim == 1 else result


def remainder(
    cache: CachedValues, parts: list[torch.Tensor], stream: str, positions: Cut, reading: Reading
) -> torch.Tensor:
    """[1 batch pos d_model | out]: the recorded stream, as it is read, less all parts."""
    whole = reading.of_stack(wide(positions.apply(cache[stream], -2)))
    for part in parts:
        whole = whole - part.sum(0)
    return whole.unsqueeze(0)


def stacked(parts: list[torch.Tensor], method: str) -> torch.Tensor:
    """[part …]; raises ArgumentError where there is nothing."""
    if not parts:
        raise ArgumentError(f"{method}: there are no blocks before layer 0")
    return torch.cat(parts)
