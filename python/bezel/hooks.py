"""What a hook function is told, and how it reaches the core."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import torch

from bezel import _C
from bezel.errors import ArgumentError
from bezel.selection import OneName, selector

Direction: TypeAlias = Literal["fwd", "bwd"]


class Hook:
    """Where a hook function was called.

    Attributes:
        name: Full name, "blocks.3.attn.hook_z".
        ctx: A scratch dict, shared by the hooks of one name in one call.
        dir: "fwd", or "bwd" for gradients.
        step: The step of a generation, 0 in a plain run.
        positions: [batch pos] int64, absolute token positions, -1 at padding.
        key_positions: [batch k_pos] int64, the same for the keys.
    """

    __slots__ = ("_layer", "ctx", "dir", "key_positions", "name", "positions", "step")

    def __init__(self, site: _C.HookSite, ctx: dict[str, Any]) -> None:
        self.name: str = site.name
        self.ctx = ctx
        self.dir: Direction = site.dir
        self.step: int = site.step
        self.positions: torch.Tensor = site.positions
        self.key_positions: torch.Tensor = site.key_positions
        self._layer = site.layer

    def layer(self) -> int:
        """The block of this value. Raises ArgumentError for a value of the model."""
        if self._layer is None:
            raise ArgumentError(f'"{self.name}" belongs to the model and has no layer')
        return self._layer

    def __repr__(self) -> str:
        return f"Hook({self.name!r}, dir={self.dir!r}, step={self.step})"


# Called as function(value, hook=hook). None keeps the value, with what was written into it; a
# tensor of the same shape replaces it.
HookFunction: TypeAlias = Callable[..., torch.Tensor | None]
HookPair: TypeAlias = tuple[OneName, HookFunction]


class Contexts(dict[str, dict[str, Any]]):
    """hook.ctx by name."""

    def __missing__(self, name: str) -> dict[str, Any]:
        return self.setdefault(name, {})


def add_hooks(
    request: _C.Request, pairs: list[HookPair], direction: Direction, contexts: Contexts
) -> None:
    """Adds (name, function) pairs to a request, in this order."""
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not callable(pair[1]):
            raise ArgumentError(
                f"{direction}_hooks has {pair!r}; wanted pairs (name, function), the function "
                "called as function(value, hook=hook)"
            )
        name, function = pair
        request.edit(selector(name), _for_core(function, contexts), direction == "bwd")


def request_of(
    names: Iterable[_C.Selector] = (),
    fwd_hooks: list[HookPair] | None = None,
    bwd_hooks: list[HookPair] | None = None,
) -> _C.Request:
    """What one call asks for: values to record, and its own hooks."""
    request, contexts = _C.Request(), Contexts()
    for chosen in names:
        request.record(chosen)
    add_hooks(request, fwd_hooks or [], "fwd", contexts)
    add_hooks(request, bwd_hooks or [], "bwd", contexts)
    return request


def _for_core(
    function: HookFunction, contexts: Contexts
) -> Callable[[torch.Tensor, _C.HookSite], torch.Tensor | None]:
    def call(value: torch.Tensor, site: _C.HookSite) -> torch.Tensor | None:
        return function(value, hook=Hook(site, contexts[site.name]))

    return call
