"""Hooks at the values inside SAEs, and what one run asks of the SAEs in it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, cast
from weakref import WeakKeyDictionary

import torch

from bezel import _C
from bezel.errors import HookNeverFiredError, HookResultError
from bezel.hooks import Contexts, Direction, HookFunction, RegisteredHook

# The values inside a spliced SAE, in the order in which it computes them.
PARTS = (
    "hook_sae_input",
    "hook_sae_acts_pre",
    "hook_sae_acts_post",
    "hook_sae_recons",
    "hook_sae_error",
    "hook_sae_output",
)


class SaeHook(RegisteredHook):
    """A hook at values of SAEs: the splice calls it, not the core.

    Attributes:
        exact: Those of its names that a run must have; of the others one is enough.
    """

    def __init__(
        self,
        names: Sequence[str],
        exact: Collection[str],
        function: HookFunction,
        dir: Direction,
        contexts: Contexts,
    ) -> None:
        super().__init__(names, function, dir, contexts)
        self.names = tuple(names)
        self.exact = frozenset(exact)

    def resolve(self, core: _C.Bridge) -> RegisteredHook:
        """Its names are known already."""
        return self

    def add_to(self, request: _C.Request) -> None:
        """Adds the hook behind those added before; the run's SAEs are there by now.

        Raises:
            HookNeverFiredError: The run has no SAE there, or ends before it.
        """
        asked = asked_of(request)
        self._join(asked, asked.reached)

    def add_where_it_fires(self, request: _C.Request, core: _C.Bridge, made: _C.Input) -> None:
        """`add_to`; the run may end before the SAE, but it must have one."""
        asked = asked_of(request)
        self._join(asked, asked.reached | asked.unreached.keys())

    def _join(self, asked: Asked, there: set[str]) -> None:
        missing = self.exact - there
        if there.isdisjoint(self.names):
            missing |= set(self.names)
        if missing:
            raise HookNeverFiredError(asked.why_not(min(missing, key=self.names.index)))
        asked.hooks.append(self)

    def apply(self, value: torch.Tensor, site: SaeSite) -> torch.Tensor:
        """What the function makes of its own copy of a value; the value itself is not touched."""
        own = value.clone()
        result = self._call(own, cast(_C.HookSite, site))
        if result is None:
            result = own
        is_tensor = isinstance(result, torch.Tensor)
        if not is_tensor or result.shape != value.shape or result.device != value.device:
            told = f"{result.dtype} {list(result.shape)} on {result.device}" if is_tensor else ""
            raise HookResultError(
                f'the hook at "{site.name}" returned {told or type(result).__name__}; the value '
                f"there is {value.dtype} {list(value.shape)} on {value.device}. Return the same "
                "shape on the same device, or None"
            )
        return result.to(value.dtype)


class SaeSite(NamedTuple):
    """What the core tells a hook function about itself, for a value of an SAE."""

    name: str
    layer: int | None
    dir: Direction
    step: int
    positions: torch.Tensor
    key_positions: torch.Tensor


class Asked:
    """What one run asks of its SAEs: filled as they, and then the hooks, are added to it.

    Attributes:
        hooks: In the order in which they are called.
        reached: The values of its SAEs.
        unreached: Those of SAEs that it does not come to, and why.
    """

    def __init__(self) -> None:
        self.hooks: list[SaeHook] = []
        self.reached: set[str] = set()
        self.unreached: dict[str, str] = {}

    def why_not(self, name: str) -> str:
        """What to tell whose hook cannot fire."""
        if name in self.unreached:
            return f'"{name}" cannot fire: {self.unreached[name]}'
        return (
            f'a hook stands at "{name}", and this run has no SAE with that value: attach one '
            "(add_sae, saes), or remove the hook (reset_hooks)"
        )


# A request lives as long as its run, and its SAEs hold what is asked of them for backward().
_ASKED: WeakKeyDictionary[_C.Request, Asked] = WeakKeyDictionary()


def asked_of(request: _C.Request) -> Asked:
    """What a request asks of SAEs."""
    return _ASKED.setdefault(request, Asked())
