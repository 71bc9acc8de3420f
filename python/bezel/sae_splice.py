"""What an SAE does at its place in one run: values are shown, edited, differentiated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bezel.errors import ArgumentError
from bezel.hooks import Direction, Hook
from bezel.sae import SAE
from bezel.sae_hooks import Asked, SaeHook, SaeSite


class Splice:
    """A hook function that puts an SAE in the place of the value.

    Attributes:
        sae: The SAE.
        use_error_term: Add what it misses, as a constant.
        asked: What this run does to the values inside; None where they have no names.
    """

    def __init__(self, sae: SAE, use_error_term: bool = False, asked: Asked | None = None) -> None:
        self.sae = sae
        self.use_error_term = use_error_term
        self.asked = asked

    def __call__(self, value: torch.Tensor, hook: Hook) -> torch.Tensor:
        """The reconstruction of a value, in its shape and dtype."""
        if not value.is_floating_point():
            raise ArgumentError(f'an SAE at "{hook.name}": the value there is {value.dtype}')
        n_axes = axes_of_features(value.shape, self.sae.cfg.d_in, hook.name)
        tap = _Tap(hook, self.asked.hooks if self.asked else ())
        flat = value.flatten(-n_axes)
        made = self.sae.decode(self.sae.encode(flat, tap), tap).reshape(value.shape)
        if self.use_error_term:
            made = self._with_error(value, flat, made, tap)
        return tap("hook_sae_output", made.to(value.dtype))

    def _with_error(
        self, value: torch.Tensor, flat: torch.Tensor, made: torch.Tensor, tap: _Tap
    ) -> torch.Tensor:
        """The sum; where the error is as it was: value + (made - clean), without rounding."""
        with torch.no_grad():
            clean = self.sae(flat).reshape(value.shape) if tap.edited else made
            exact = value
            if tap.edited:
                exact = value.to(torch.promote_types(value.dtype, made.dtype)) + (made - clean)
            error = value.to(made.dtype) - clean
        tap.edited = False
        error = tap("hook_sae_error", error)
        return made + error if tap.edited else _Sum.apply(made, error, exact)  # type: ignore[no-untyped-call]


class _Sum(torch.autograd.Function):
    """A sum whose rounded value is given."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return value

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        return grad, grad, None


class _Tap:
    """Shows the values of one call to the hooks, in their order."""

    def __init__(self, at: Hook, hooks: Sequence[SaeHook]) -> None:
        self.edited = False
        self._at = at
        self._hooks = hooks

    def __call__(self, part: str, value: torch.Tensor) -> torch.Tensor:
        name = f"{self._at.name}.{part}"
        here = [hook for hook in self._hooks if name in hook.names]
        for hook in here:
            if hook.dir == "fwd":
                shown = value
                value = hook.apply(value, self._site(name, "fwd"))
                self.edited |= value is not shown
        backward = [hook for hook in here if hook.dir == "bwd"]
        return self._watched(name, value, backward) if backward else value

    def _watched(self, name: str, value: torch.Tensor, hooks: list[SaeHook]) -> torch.Tensor:
        if not torch.is_grad_enabled():
            raise ArgumentError(
                f'the gradient at "{name}" was asked for while autograd is switched off; leave '
                "torch.no_grad() or torch.inference_mode(), and backward hooks out of generate"
            )
        if not value.requires_grad:
            value = value.detach().requires_grad_()

        def arrive(gradient: torch.Tensor) -> torch.Tensor:
            for hook in hooks:
                gradient = hook.apply(gradient, self._site(name, "bwd"))
            return gradient

        value.register_hook(arrive)  # type: ignore[no-untyped-call]
        return value

    def _site(self, name: str, dir: Direction) -> SaeSite:
        at = self._at
        return SaeSite(name, at._layer, dir, at.step, at.positions, at.key_positions)


def axes_of_features(shape: Sequence[int | None], d_in: int, name: str) -> int:
    """How many last axes hold an SAE's d_in numbers; None in the shape: the input decides it."""
    product = 1
    for n_axes, size in enumerate(reversed(shape), start=1):
        if size is None:
            if n_axes == 1:
                return 1
            break
        product *= size
        if product == d_in:
            return n_axes
    told = [size if size is not None else "…" for size in shape]
    raise ArgumentError(
        f'the SAE has d_in={d_in}; the value "{name}" is {told}, and no number of its last axes '
        f"holds {d_in} together"
    )
