"""The hooks of every `with b.hooks()` that is open, by thread and asyncio task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from bezel.hooks import Contexts, RegisteredHook


class Opened:
    """One open `with`; known to every task that has it in its context."""

    def __init__(self, bridge: object, contexts: Contexts) -> None:
        self.bridge = bridge
        self.contexts = contexts
        self.is_open = True


class Scope(NamedTuple):
    """One open `with` as this task sees it: another may have removed hooks of its own view."""

    opened: Opened
    hooks: tuple[RegisteredHook, ...]


# From the outer to the inner, of all Bridges. Replaced, never changed: a task that inherited it
# goes on with its own.
_OPEN: ContextVar[tuple[Scope, ...]] = ContextVar("bezel_open_hooks", default=())


def any_open() -> bool:
    """False when no `with` of any Bridge is open here."""
    return bool(_OPEN.get())


def scopes_of(bridge: object) -> list[Scope]:
    """What is open here, from the outer to the inner."""
    return [
        scope for scope in _OPEN.get() if scope.opened.bridge is bridge and scope.opened.is_open
    ]


@contextmanager
def opened(
    bridge: object, hooks: Iterable[RegisteredHook], contexts: Contexts
) -> Iterator[Callable[[], list[RegisteredHook]]]:
    """Opens a scope; what it gives tells the hooks that are still in it."""
    made = Opened(bridge, contexts)
    _OPEN.set((*_OPEN.get(), Scope(made, tuple(hooks))))
    try:
        yield lambda: [
            hook for scope in _OPEN.get() if scope.opened is made for hook in scope.hooks
        ]
    finally:  # by identity: others may have been opened since, or closed out of order
        made.is_open = False
        _OPEN.set(tuple(scope for scope in _OPEN.get() if scope.opened is not made))


def keep_only(bridge: object, stays: Callable[[RegisteredHook], bool]) -> None:
    """Removes other hooks from what is open here."""
    scopes = [
        scope._replace(hooks=tuple(filter(stays, scope.hooks)))
        if scope.opened.bridge is bridge
        else scope
        for scope in _OPEN.get()
    ]
    _OPEN.set(tuple(scopes))
