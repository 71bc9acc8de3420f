"""The part of a Bridge that holds hooks between calls: standing ones, and those of a `with`."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Self, TypeAlias

import torch

from bezel import _C, loading, open_hooks
from bezel.caching_hooks import Saver
from bezel.errors import ArgumentError
from bezel.hooks import (
    Contexts,
    Direction,
    HookFunction,
    HookNames,
    HookPair,
    RegisteredHook,
    dtypes_of,
    hooks_of,
    outside_of_themselves,
)
from bezel.media_inputs import MediaInputs
from bezel.selection import NamesFilter, PosSlice, selectors

Directions: TypeAlias = Literal["fwd", "bwd", "both"]


class StandingHooks(MediaInputs):
    """Hooks that outlive a call.

    A run applies, in this order: the Bridge's standing hooks; those of the open `with b.hooks()`,
    from the outer to the inner; its own. Within each, as registered, prepend=True first. It takes
    them all when it starts: what is registered or removed during a run shows in the next one.

    Standing hooks belong to the Bridge and apply to the runs of every thread. A `with b.hooks()`
    belongs to the thread or asyncio task that opened it, and to tasks that it starts inside.

    Both are rules about values: a run that does not compute a value (start_at_layer,
    stop_at_layer, floats as input, a value of images where there are none) does not need its
    hooks, and goes on without them. Its own hooks were asked of this run: there, a hook that
    cannot fire raises HookNeverFiredError.

    In a run inside a hook function that function itself does not apply; every other standing hook
    does.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._standing: tuple[RegisteredHook, ...] = ()  # replaced, never changed
        self._standing_contexts = Contexts()
        self._standing_lock = threading.Lock()

    def add_hook(
        self,
        name: HookNames,
        hook: HookFunction,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> None:
        """Lets a hook stand: it applies to every run until `reset_hooks`.

        Args:
            name: A name, a glob, a compiled regular expression, a callable on names (asked now),
                or several of these; at a name that several choose it is called once.
            hook: Called as function(value, hook=hook), see `run_with_hooks`.
            dir: "fwd" for values, "bwd" for gradients.
            is_permanent: `reset_hooks` leaves it, unless including_permanent.
            level: A number by which `reset_hooks` can choose it.
            prepend: Before the hooks that stand already, instead of behind them.

        Raises:
            UnknownHookError, HookNotApplicableError: For a name that this model lacks; nothing is
                registered then.

        Example:
            >>> b.add_hook("blocks.3.attn.hook_z", lambda z, hook: z * 0)
            >>> b.reset_hooks()
        """
        made = self._made(name, hook, dir)
        for one in made:
            one.is_permanent, one.level = bool(is_permanent), level
        with self._standing_lock:
            self._standing = (*made, *self._standing) if prepend else (*self._standing, *made)

    def add_perma_hook(self, name: HookNames, hook: HookFunction, dir: Direction = "fwd") -> None:
        """`add_hook` with is_permanent=True: it stays through a plain `reset_hooks`.

        Args:
            name: As in `add_hook`.
            hook: As in `add_hook`.
            dir: As in `add_hook`.

        Example:
            >>> b.add_perma_hook("hook_embed", lambda x, hook: None)
            >>> b.reset_hooks(including_permanent=True)
        """
        self.add_hook(name, hook, dir, is_permanent=True)

    def reset_hooks(
        self,
        direction: Directions = "both",
        including_permanent: bool = False,
        level: int | None = None,
        clear_contexts: bool = True,
    ) -> None:
        """Removes hooks: the standing ones, and those of the `with` blocks open in this thread.

        Args:
            direction: "fwd", "bwd" or "both".
            including_permanent: Those of `add_perma_hook` too.
            level: Only hooks of this level; that of a `with b.hooks()` is its depth, from 1.
            clear_contexts: Empty hook.ctx too, as `clear_contexts` does.

        Example:
            >>> b.reset_hooks()
        """
        _check_direction(direction)

        def stays(hook: RegisteredHook) -> bool:
            return (
                (hook.is_permanent and not including_permanent)
                or (direction != "both" and hook.dir != direction)
                or (level is not None and hook.level != level)
            )

        if clear_contexts:
            self.clear_contexts()
        with self._standing_lock:
            self._standing = tuple(filter(stays, self._standing))
        open_hooks.keep_only(self, stays)

    def clear_contexts(self) -> None:
        """Empties hook.ctx of the standing hooks, and of the `with` blocks open in this thread.

        Example:
            >>> b.clear_contexts()
        """
        self._standing_contexts.empty()
        for scope in open_hooks.scopes_of(self):
            scope.opened.contexts.empty()

    def list_hooks(
        self,
        name_filter: NamesFilter = None,
        dir: Directions = "both",
        including_permanent: bool = True,
    ) -> dict[str, list[RegisteredHook]]:
        """The hooks that the next run of this thread would apply, beside its own.

        Args:
            name_filter: Only these names, given as in `add_hook`; None is every name.
            dir: "fwd", "bwd" or "both".
            including_permanent: False leaves those of `add_perma_hook` out.

        Returns:
            For every name that has hooks, in the order of a run: its hooks in the order in which
            they are called.

        Example:
            >>> b.add_hook("hook_embed", lambda x, hook: None, level=7)
            >>> [hook.level for hook in b.list_hooks()["hook_embed"]]
            [7]
        """
        _check_direction(dir)
        hooks = [
            hook
            for hook in self._held()
            if dir in ("both", hook.dir) and (including_permanent or not hook.is_permanent)
        ]
        chosen = None if name_filter is None else self._dtypes(name_filter)
        by_name: dict[str, list[RegisteredHook]] = {}
        for name in self._axes() | {name: () for hook in hooks for name in hook.names}:
            at_name = [hook for hook in hooks if name in hook.names]
            if at_name and (chosen is None or name in chosen):
                by_name[name] = at_name
        return by_name

    def hooks(
        self,
        fwd_hooks: Iterable[HookPair] | None = None,
        bwd_hooks: Iterable[HookPair] | None = None,
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> AbstractContextManager[Self]:
        """Hooks for the runs inside a `with`; it nests, and leaves what it found.

        Args:
            fwd_hooks: (name, function) pairs as in `run_with_hooks`.
            bwd_hooks: The same for gradients. They belong to the runs made inside, and are called
                by their backward() wherever that happens.
            reset_hooks_end: False lets the hooks stand afterwards (not when the block raises).
            clear_contexts: Empty hook.ctx of these hooks at the end.

        Returns:
            A context manager, for one `with`, that gives this Bridge.

        Raises:
            UnknownHookError, HookNotApplicableError: At once, for a name that this model lacks.

        Example:
            >>> with b.hooks(fwd_hooks=[("blocks.*.attn.hook_z", lambda z, hook: z * 0)]):
            ...     logits = b("A and B")
        """
        contexts = Contexts() if reset_hooks_end else self._standing_contexts
        hooks = self._resolved(fwd_hooks, bwd_hooks, contexts)
        return self._opened(hooks, contexts, reset_hooks_end, clear_contexts)

    def get_caching_hooks(
        self,
        names_filter: NamesFilter = None,
        incl_bwd: bool = False,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        cache: dict[str, torch.Tensor] | None = None,
        pos_slice: PosSlice | None = None,
    ) -> tuple[dict[str, torch.Tensor], list[HookPair], list[HookPair]]:
        """Hooks that keep values in a dict, to be given to a run, a `with` or `add_hook`.

        Args:
            names_filter: As in `run_with_cache`.
            incl_bwd: Hooks for gradients too, which keep them as "<name>_grad".
            device: Where values are kept; None leaves them.
            remove_batch_dim: Drop the batch axis of a batch of one. The hooks raise ArgumentError
                when the batch has several rows.
            cache: The dict to fill; None makes one.
            pos_slice: As in `run_with_cache`.

        Returns:
            (the dict, (name, function) pairs for fwd_hooks, and for bwd_hooks). Values are
            detached copies with the axes of `hook_points`, as they are when the hook is called:
            after the hooks before it, before those behind it. A later run overwrites them.

        Raises:
            UnknownHookError, HookNotApplicableError: For a name that this model lacks.

        Example:
            >>> cache, fwd_hooks, _ = b.get_caching_hooks("blocks.*.attn.hook_z")
            >>> logits = b.run_with_hooks("A and B", fwd_hooks)
            >>> cache["blocks.0.attn.hook_z"].shape[0]
            1
        """
        save = Saver(
            kept={} if cache is None else cache,
            axes=self._axes(),
            device=None if device is None else loading.find_device(device),
            remove_batch_dim=remove_batch_dim,
            pos_slice=pos_slice,
        )
        dtypes = self._dtypes(names_filter)
        fwd_hooks: list[HookPair] = [(name, save) for name in dtypes]
        bwd_hooks: list[HookPair] = [
            (name, save) for name, dtype in dtypes.items() if incl_bwd and dtype.is_floating_point
        ]
        return save.kept, fwd_hooks, bwd_hooks

    @contextmanager
    def _opened(
        self, hooks: list[RegisteredHook], contexts: Contexts, end: bool, clear_contexts: bool
    ) -> Iterator[Self]:
        for hook in hooks:
            hook.level = 1 + len(open_hooks.scopes_of(self))
        try:
            with open_hooks.opened(self, hooks, contexts) as still_there:
                yield self
                if not end:
                    self._let_stand(still_there())
        finally:
            if clear_contexts:
                contexts.empty({name for hook in hooks for name in hook.names})

    def _let_stand(self, hooks: Iterable[RegisteredHook]) -> None:
        with self._standing_lock:
            self._standing = (*self._standing, *hooks)

    def _registered(self) -> list[RegisteredHook]:
        """What a run which starts now applies before its own hooks, in this order."""
        return self._held()

    def _held(self) -> list[RegisteredHook]:
        """The hooks that stand, and those of the open `with` blocks."""
        if not self._standing and not open_hooks.any_open():
            return []
        hooks = list(self._standing)
        for scope in open_hooks.scopes_of(self):
            hooks += scope.hooks
        return outside_of_themselves(hooks)

    def _add_registered(self, request: _C.Request, made: _C.Input, is_partial: bool) -> None:
        """Adds `_registered` to what one run asks for, as far as the run computes it."""
        for hook in self._registered():
            if is_partial or hook.needs_media:
                hook.add_where_it_fires(request, self._core, made)
            else:
                hook.add_to(request)

    def _own(
        self,
        fwd_hooks: Iterable[HookPair] | None,
        bwd_hooks: Iterable[HookPair] | None,
        contexts: Contexts,
    ) -> list[RegisteredHook]:
        """The hooks of one call, as the core will check them."""
        return [
            *self._hooks_of(fwd_hooks, "fwd", contexts),
            *self._hooks_of(bwd_hooks, "bwd", contexts),
        ]

    def _hooks_of(
        self, pairs: Iterable[HookPair] | None, dir: Direction, contexts: Contexts
    ) -> list[RegisteredHook]:
        return hooks_of(self._core, pairs, dir, contexts)

    def _made(self, name: HookNames, hook: HookFunction, dir: Direction) -> list[RegisteredHook]:
        """What `add_hook` lets stand."""
        return [RegisteredHook(name, hook, dir, self._standing_contexts).resolve(self._core)]

    def _resolved(
        self,
        fwd_hooks: Iterable[HookPair] | None,
        bwd_hooks: Iterable[HookPair] | None,
        contexts: Contexts,
    ) -> list[RegisteredHook]:
        """Hooks that outlive a call; their names are checked here."""
        return [hook.resolve(self._core) for hook in self._own(fwd_hooks, bwd_hooks, contexts)]

    def _dtypes(self, names_filter: NamesFilter) -> dict[str, torch.dtype]:
        """The values that a filter chooses, in the order of a run, and what they hold."""
        chosen: dict[str, torch.dtype] = {}
        for one in selectors(names_filter):
            chosen.update(dtypes_of(self._core, one))
        return {name: chosen[name] for name in self._axes() if name in chosen}

    def _axes(self) -> dict[str, tuple[str, ...]]:
        """Every value and its axis words, in the order of a run."""
        return {name: tuple(axes) for name, axes, *_ in self._core.hook_points()}


def _check_direction(direction: str) -> None:
    if direction not in ("fwd", "bwd", "both"):
        raise ArgumentError(f'the direction is {direction!r}; wanted "fwd", "bwd" or "both"')
