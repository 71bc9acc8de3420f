"""What a hook function is told, how it is registered, and how it reaches the core."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from bezel import _C
from bezel.errors import ArgumentError, HookNeverFiredError
from bezel.names import is_of_media
from bezel.selection import OneName, selector

Direction: TypeAlias = Literal["fwd", "bwd"]


class Hook:
    """Where a hook function was called.

    Attributes:
        name: Full name, "blocks.3.attn.hook_z".
        ctx: A scratch dict, shared by the hooks of one name, forward and backward, that were
            registered together: in one call, in one `with b.hooks()`, or on the Bridge. It lives
            as long as they do.
        dir: "fwd", or "bwd" for gradients.
        step: The step of a generation, 0 in a plain run.
        positions: [batch pos] int64, absolute token positions, -1 at padding. At names of images
            [image patch 2], column and row of each patch; at names of audio [audio frame], the
            number of each frame.
        key_positions: [batch k_pos] int64, the same for the keys. At names of images as
            positions; at names of audio [audio chunk k_frame], the frames that a chunk may see.

    Example:
        >>> def show(value, hook):
        ...     print(hook, hook.positions.tolist())
        >>> logits = b.run_with_hooks("Emma knows", fwd_hooks=[("blocks.3.attn.hook_z", show)])
        Hook('blocks.3.attn.hook_z', dir='fwd', step=0) [[0, 1, 2]]
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
        """The block of this value. Raises ArgumentError for a value of the model.

        Example:
            >>> layers = []
            >>> note = lambda value, hook: layers.append(hook.layer())
            >>> logits = b.run_with_hooks("Emma knows", fwd_hooks=[("blocks.*.attn.hook_z", note)])
            >>> layers
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        """
        if self._layer is None:
            raise ArgumentError(f'"{self.name}" belongs to the model and has no layer')
        return self._layer

    def __repr__(self) -> str:
        return f"Hook({self.name!r}, dir={self.dir!r}, step={self.step})"


# Called as function(value, hook=hook). None keeps the value, with what was written into it; a
# tensor of the same shape replaces it.
HookFunction: TypeAlias = Callable[..., torch.Tensor | None]
HookNames: TypeAlias = OneName | Iterable[OneName]
HookPair: TypeAlias = tuple[HookNames, HookFunction]


class Contexts(dict[str, dict[str, Any]]):
    """hook.ctx by name."""

    def __missing__(self, name: str) -> dict[str, Any]:
        return self.setdefault(name, {})

    def empty(self, names: Iterable[str] | None = None) -> None:
        """Empties the dicts of these names, or of all, for those too who hold one."""
        for name in list(self) if names is None else names:
            if name in self:
                self[name].clear()


class RegisteredHook:
    """A hook function and the values at which it is called.

    Attributes:
        function: Called as function(value, hook=hook).
        dir: "fwd" or "bwd".
        names: Full names of the values, in the order of a run; empty before `resolve`.
        is_permanent: `reset_hooks` leaves it, unless told otherwise.
        level: By which `reset_hooks` may choose it.
    """

    def __init__(
        self, name: HookNames, function: HookFunction, dir: Direction, contexts: Contexts
    ) -> None:
        if dir not in ("fwd", "bwd"):
            raise ArgumentError(f'dir is {dir!r}; wanted "fwd" or "bwd"')
        if not callable(function):
            raise ArgumentError(
                f"the hook at {name!r} is {function!r}; wanted a function, called as "
                "function(value, hook=hook)"
            )
        self.function = function
        self.dir: Direction = dir
        self.names: tuple[str, ...] = ()
        self.is_permanent = False
        self.level: int | None = None
        self._contexts = contexts
        self._rules = [_Rule(one, selector(one)) for one in one_or_several(name)]

    @property
    def n_rules(self) -> int:
        """How many names, globs … it was given."""
        return len(self._rules)

    def resolve(self, core: _C.Bridge) -> RegisteredHook:
        """Asks a model for the names, once.

        Raises:
            UnknownHookError, HookNotApplicableError: For a name that this model lacks.
        """
        seen: set[str] = set()
        for i, rule in enumerate(self._rules):
            names = frozenset(dtypes_of(core, rule.selector, self.dir))
            if not isinstance(rule.given, str):  # what a callable once said holds
                rule = rule._replace(selector=_C.Selector(names.__contains__))
            self._rules[i] = rule._replace(but=names & seen)
            seen |= names
        self.names = tuple(row[0] for row in core.hook_points() if row[0] in seen)
        return self

    def add_to(self, request: _C.Request) -> None:
        """Adds the hook to what one run asks for, behind those added before."""
        for rule in self._rules:
            self._add(rule, request)

    @property
    def needs_media(self) -> bool:
        """True where it has names of encoders, which run for images and sound alone."""
        return any(is_of_media(name) for name in self.names)

    def add_where_it_fires(self, request: _C.Request, core: _C.Bridge, made: _C.Input) -> None:
        """`add_to`, without the names that a run of this input does not compute."""
        for rule in self._rules:
            alone = _C.Request()
            self._add(rule, alone)
            try:
                core.plan(made, alone)
            except HookNeverFiredError:
                continue
            self._add(rule, request)

    def _add(self, rule: _Rule, request: _C.Request) -> None:
        function = self._call_unless(rule.but) if rule.but else self._call
        request.edit(rule.selector, function, self.dir == "bwd")

    def _call(self, value: torch.Tensor, site: _C.HookSite) -> torch.Tensor | None:
        token = _INSIDE.set((*_INSIDE.get(), self))
        try:
            return self.function(value, hook=Hook(site, self._contexts[site.name]))
        finally:
            _INSIDE.reset(token)

    def _call_unless(self, names: frozenset[str]) -> _CoreFunction:
        def call(value: torch.Tensor, site: _C.HookSite) -> torch.Tensor | None:
            return None if site.name in names else self._call(value, site)

        return call

    def __repr__(self) -> str:
        words = [getattr(self.function, "__qualname__", repr(self.function)), self.dir]
        words += ["permanent"] if self.is_permanent else []
        words += [f"level={self.level}"] if self.level is not None else []
        return f"RegisteredHook({', '.join(words)})"


_CoreFunction: TypeAlias = Callable[[torch.Tensor, _C.HookSite], torch.Tensor | None]


class _Rule(NamedTuple):
    given: OneName
    selector: _C.Selector
    but: frozenset[str] = frozenset()  # names that an earlier rule of the hook has chosen


# The hooks in whose functions this code runs. They do not apply to runs within themselves.
_INSIDE: ContextVar[tuple[RegisteredHook, ...]] = ContextVar("bezel_inside", default=())


def outside_of_themselves(hooks: Iterable[RegisteredHook]) -> list[RegisteredHook]:
    """Those hooks in whose functions this code does not run, so that none calls itself."""
    inside = _INSIDE.get()
    return [hook for hook in hooks if hook not in inside]


def hooks_of(
    core: _C.Bridge, pairs: Iterable[HookPair] | None, dir: Direction, contexts: Contexts
) -> list[RegisteredHook]:
    """(name, function) pairs as hooks, in this order. Raises ArgumentError for other things."""
    made = []
    for pair in pairs or ():
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not callable(pair[1]):
            raise ArgumentError(
                f"{dir}_hooks has {pair!r}; wanted pairs (name, function), the function "
                "called as function(value, hook=hook)"
            )
        hook = RegisteredHook(*pair, dir, contexts)
        made.append(hook.resolve(core) if hook.n_rules > 1 else hook)
    return made


def dtypes_of(
    core: _C.Bridge, chosen: _C.Selector, dir: Direction = "fwd"
) -> dict[str, torch.dtype]:
    """The values that a selector chooses in a run of every part. Raises as it would, before it."""
    request = _C.Request()
    request.record(chosen)
    request.edit(chosen, lambda value, site: None, dir == "bwd")
    values = core.plan_of_all(request).values
    return {v.name: v.dtype for v in values if dir == "fwd" or v.dtype.is_floating_point}


def one_or_several(name: HookNames) -> list[OneName]:
    """The names of an iterable, or the one name. Raises ArgumentError for an empty iterable."""
    if isinstance(name, str | re.Pattern) or callable(name) or not isinstance(name, Iterable):
        return [name]
    if chosen := list(name):
        return chosen
    raise ArgumentError("a hook was given no name, so that it could not fire; name a value")
