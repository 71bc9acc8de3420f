"""Hooks at the values inside SAEs, and what one run asks of the SAEs in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast
from weakref import WeakKeyDictionary

import torch

from bezel import _C
from bezel.errors import HookNeverFiredError, HookResultError
from bezel.hooks import Contexts, Direction, HookFunction, RegisteredHook
from bezel.selection import OneName

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
        needed: Of each of these a run must have one.
    """

    def __init__(
        self,
        names: Sequence[str],
        needed: Sequence[frozenset[str]],
        function: HookFunction,
        dir: Direction,
        contexts: Contexts,
    ) -> None:
        super().__init__(names, function, dir, contexts)
        self.names = tuple(names)
        self.needed = tuple(needed)

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
        for several in self.needed:
            if several.isdisjoint(there):
                raise HookNeverFiredError(asked.why_not(min(several, key=self.names.index)))
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


class ModelPart(RegisteredHook):
    """What of a hook at values of SAEs stands at values of the model, chosen by the same globs.

    Of what one glob chooses in both, a run needs something, in one of them.
    """

    def __init__(
        self,
        names: Sequence[OneName],
        inside: Sequence[frozenset[str]],
        function: HookFunction,
        dir: Direction,
        contexts: Contexts,
    ) -> None:
        super().__init__(names, function, dir, contexts)
        self._inside = tuple(inside)

    def add_to(self, request: _C.Request) -> None:
        """Adds the hook; a name that the run does not compute only where its SAEs have none."""
        asked = asked_of(request)
        for rule, inside in zip(self._rules, self._inside, strict=True):
            at_an_sae = not inside.isdisjoint(asked.reached)
            if asked.run is None or not at_an_sae or asked.run.computes(rule.selector):
                self._add(rule, request)


class SaeSite(NamedTuple):
    """What the core tells a hook function about itself, for a value of an SAE."""

    name: str
    layer: int | None
    dir: Direction
    step: int
    positions: torch.Tensor
    key_positions: torch.Tensor


class RunOfInput(NamedTuple):
    """A model and what it will run."""

    core: _C.Bridge
    made: _C.Input

    def computes(self, chosen: _C.Selector) -> bool:
        """Whether it comes to any of the values; they must be of this model."""
        request = _C.Request()
        request.record(chosen)
        try:
            self.core.plan(self.made, request)
        except HookNeverFiredError:
            return False
        return True


class Asked:
    """What one run asks of its SAEs: filled as they, and then the hooks, are added to it.

    Attributes:
        run: Where it is known.
        hooks: In the order in which they are called.
        reached: The values of its SAEs.
        unreached: Those of SAEs that it does not come to, and why.
    """

    def __init__(self) -> None:
        self.run: RunOfInput | None = None
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
