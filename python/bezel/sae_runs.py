"""The part of a Bridge that puts sparse autoencoders into runs."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, Self, Unpack

import torch

from bezel import _C, loading, open_hooks
from bezel.arguments import ForwardArguments, ModelInput, Result
from bezel.cache import ActivationCache
from bezel.caching_hooks import Saver
from bezel.errors import ArgumentError
from bezel.generating import Generating
from bezel.hooks import (
    Contexts,
    Direction,
    HookPair,
    RegisteredHook,
    hooks_of,
    one_or_several,
)
from bezel.running import Running, _Run
from bezel.sae import SAE
from bezel.sae_names import AttachedSae, attached_by_name, names_of, split
from bezel.sae_splice import Kept, Recording, SaeHook
from bezel.selection import NamesFilter, PosSlice


class SaeRuns(Generating):
    """SAEs that are part of the model for a call, inside a `with`, or until `reset_saes`.

    An attached SAE takes the value of its name and gives its reconstruction, before any other hook
    there sees it. Its own values have names too, "<name>.hook_sae_acts_post" and so on (`PARTS` in
    sae_splice.py), which names_filter, fwd_hooks and bwd_hooks take like others, also as globs:
    hook_sae_input, hook_sae_recons [… d_in], hook_sae_acts_pre, hook_sae_acts_post [… d_sae],
    hook_sae_error (with the error term) and hook_sae_output with the axes of the value. In a cache
    they stand behind those of the model.

    At one name there is one SAE: that of the innermost `with`, or the last added. `reset_hooks`
    leaves SAEs alone.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._saes: tuple[AttachedSae, ...] = ()  # replaced, never changed
        self._sae_scopes = object()  # whose `with` blocks open_hooks keeps for SAEs

    @property
    def acts_to_saes(self) -> dict[str, SAE]:
        """The attached SAEs, as the next run of this thread takes them, by name."""
        return {name: attached.sae for name, attached in self._attached().items()}

    def add_sae(self, sae: SAE, use_error_term: bool = False) -> None:
        """Makes an SAE part of the model until `reset_saes`; one added at its name before goes.

        Args:
            sae: The SAE; `sae.at(name)` chooses another place.
            use_error_term: Add what it misses, as a constant: then the run is as without it, and
                edits of features are all that changes.

        Raises:
            UnknownHookError, HookNotApplicableError: The model has no such value.
            ArgumentError: Its width or device is not that of the value.

        Example:
            >>> b.add_sae(sae)
            >>> b.reset_saes()
        """
        made = AttachedSae(sae, use_error_term, self)
        with self._standing_lock:
            self._saes = (*(one for one in self._saes if one.names != made.names), made)

    def reset_saes(self, act_names: str | Iterable[str] | None = None) -> None:
        """Takes SAEs out: added ones, and those of the `with` blocks open in this thread.

        Args:
            act_names: The names at which they are; None is every one.

        Raises:
            ArgumentError: No SAE is attached there.

        Example:
            >>> b.reset_saes()
        """
        attached = self._attached()
        gone = {act_names} if isinstance(act_names, str) else set(act_names or attached)
        if unknown := sorted(gone - attached.keys()):
            raise ArgumentError(
                f'no SAE is attached at "{unknown[0]}"; attached: {sorted(attached) or "none"}'
            )

        def stays(one: RegisteredHook) -> bool:
            return gone.isdisjoint(one.names)

        with self._standing_lock:
            self._saes = tuple(filter(stays, self._saes))
        open_hooks.keep_only(self._sae_scopes, stays)

    @contextmanager
    def saes(
        self,
        saes: SAE | Iterable[SAE],
        reset_saes_end: bool = True,
        use_error_term: bool = False,
    ) -> Iterator[Self]:
        """SAEs for the runs inside a `with`; it nests, and leaves what it found.

        Args:
            saes: One or several.
            reset_saes_end: False lets them stay attached (not when the block raises).
            use_error_term: As in `add_sae`.

        Raises:
            UnknownHookError, HookNotApplicableError, ArgumentError: As in `add_sae`, at once.

        Example:
            >>> with b.saes([sae]):
            ...     _, cache = b.run_with_cache("A and B", "*.hook_sae_acts_post")
        """
        with self._open_saes(saes, reset_saes_end, use_error_term, required=False):
            yield self

    def run_with_saes(
        self,
        input: ModelInput,
        saes: SAE | Iterable[SAE],
        reset_saes_end: bool = True,
        use_error_term: bool = False,
        **arguments: Unpack[ForwardArguments],
    ) -> Result:
        """`forward` with SAEs in the model.

        Args:
            input: As in `forward`.
            saes: One or several; each must be reached by the run.
            reset_saes_end: False lets them stay attached (not when the run raises).
            use_error_term: As in `add_sae`; then the result is that of the plain run: bit for bit,
                except where an SAE inside attention or the experts keeps a fused kernel away.
            **arguments: As in `forward`.

        Returns:
            What `forward` returns: logits [batch pos d_vocab] …

        Raises:
            HookNeverFiredError: The run ends before an SAE.
            UnknownHookError, HookNotApplicableError, ArgumentError: As in `add_sae`.

        Example:
            >>> logits = b.run_with_saes("A and B", saes=[sae])
        """
        with self._open_saes(saes, reset_saes_end, use_error_term):
            return self.forward(input, **arguments)

    def run_with_cache_with_saes(
        self,
        input: ModelInput,
        names_filter: NamesFilter = None,
        *,
        saes: SAE | Iterable[SAE],
        reset_saes_end: bool = True,
        use_error_term: bool = False,
        **arguments: Any,
    ) -> tuple[Result, ActivationCache | dict[str, torch.Tensor]]:
        """`run_with_cache` with SAEs in the model.

        Args:
            input: As in `forward`.
            names_filter: As in `run_with_cache`; names of SAE values too. None keeps them all.
            saes: As in `run_with_saes`.
            reset_saes_end: As in `run_with_saes`.
            use_error_term: As in `add_sae`.
            **arguments: As in `run_with_cache`.

        Returns:
            (what `forward` returns, the cache); features are [… d_sae].

        Raises:
            HookNeverFiredError: The run ends before an SAE.
            UnknownHookError, HookNotApplicableError, ArgumentError: As in `add_sae`.

        Example:
            >>> _, cache = b.run_with_cache_with_saes("A and B", saes=[sae])
            >>> features = cache[f"{sae.cfg.hook_name}.hook_sae_acts_post"]
        """
        with self._open_saes(saes, reset_saes_end, use_error_term):
            return self.run_with_cache(input, names_filter, **arguments)

    def run_with_hooks_with_saes(
        self,
        input: ModelInput,
        *,
        saes: SAE | Iterable[SAE],
        reset_saes_end: bool = True,
        use_error_term: bool = False,
        **arguments: Any,
    ) -> Result:
        """`run_with_hooks` with SAEs in the model.

        Args:
            input: As in `forward`.
            saes: As in `run_with_saes`.
            reset_saes_end: As in `run_with_saes`.
            use_error_term: As in `add_sae`.
            **arguments: fwd_hooks, bwd_hooks and the rest, as in `run_with_hooks`.

        Returns:
            What `forward` returns.

        Raises:
            HookNeverFiredError: The run ends before an SAE.
            UnknownHookError, HookNotApplicableError, ArgumentError: As in `add_sae`.

        Example:
            >>> def ablate(features, hook):
            ...     features[:, :, 7] = 0
            >>> hooks = [(f"{sae.cfg.hook_name}.hook_sae_acts_post", ablate)]
            >>> logits = b.run_with_hooks_with_saes("A and B", saes=[sae], fwd_hooks=hooks)
        """
        with self._open_saes(saes, reset_saes_end, use_error_term):
            return self.run_with_hooks(input, **arguments)

    def run_with_cache(
        self, input: ModelInput, names_filter: NamesFilter = None, **options: Any
    ) -> tuple[Result, ActivationCache | dict[str, torch.Tensor]]:
        """`Running.run_with_cache`, for names of attached SAEs too."""
        attached = self._attached()
        if not attached:
            return super().run_with_cache(input, names_filter, **options)
        given = ["*"] if names_filter is None else one_or_several(names_filter)
        chosen = split(given, attached, self._core)
        if not chosen.of_saes:
            return super().run_with_cache(input, names_filter, **options)
        recording = self._recording(chosen.of_saes, attached, **options)
        token = _ASKED.set(_Asked((), recording, frozenset(chosen.exact), not chosen.of_model))
        try:
            rest = chosen.of_model or sorted({name.rpartition(".")[0] for name in chosen.of_saes})
            return super().run_with_cache(input, rest, **options)
        finally:
            _ASKED.reset(token)

    if not TYPE_CHECKING:  # its signature and docstring
        run_with_cache = functools.wraps(Running.run_with_cache)(run_with_cache)

    @contextmanager
    def _open_saes(
        self,
        saes: SAE | Iterable[SAE],
        reset_saes_end: bool,
        use_error_term: bool,
        required: bool = True,
    ) -> Iterator[None]:
        given = [saes] if isinstance(saes, SAE) else list(saes)
        made = [AttachedSae(sae, use_error_term, self, required) for sae in given]
        by_name = {one.names: one for one in made}
        if len(by_name) < len(made):
            raise ArgumentError("two of the SAEs are for one value; give another a place: sae.at()")
        with open_hooks.opened(self._sae_scopes, made, Contexts()):
            yield
        if not reset_saes_end:
            for sae in given:
                self.add_sae(sae, use_error_term)

    def _attached(self) -> dict[str, AttachedSae]:
        """The SAEs of a run that starts now, by name."""
        if not self._saes and not open_hooks.any_open():
            return {}
        scopes = open_hooks.scopes_of(self._sae_scopes)
        return attached_by_name([*self._saes, *(one for scope in scopes for one in scope.hooks)])

    def _recording(
        self,
        names: Sequence[str],
        attached: dict[str, AttachedSae],
        incl_bwd: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        pos_slice: PosSlice | None = None,
        **others: Any,
    ) -> Recording:
        axes = {name: attached[name.rpartition(".")[0]].axes for name in names}
        where = None if device is None else loading.find_device(device)
        saver = Saver(Kept(dtype), axes, where, False, pos_slice)
        return Recording(frozenset(names), incl_bwd, saver)

    def _own(
        self,
        fwd_hooks: Iterable[HookPair] | None,
        bwd_hooks: Iterable[HookPair] | None,
        contexts: Contexts,
    ) -> list[RegisteredHook]:
        attached = self._attached()
        if not attached:
            return super()._own(fwd_hooks, bwd_hooks, contexts)
        made: list[RegisteredHook] = []
        directions: tuple[tuple[Iterable[HookPair] | None, Direction], ...]
        directions = ((fwd_hooks, "fwd"), (bwd_hooks, "bwd"))
        for pairs, dir in directions:
            for pair in pairs or ():
                made += self._hooks_of_pair(pair, dir, contexts, attached)
        return made

    def _hooks_of_pair(
        self, pair: HookPair, dir: Direction, contexts: Contexts, attached: dict[str, AttachedSae]
    ) -> list[RegisteredHook]:
        given: Any = pair
        if not isinstance(given, tuple | list) or len(given) != 2:
            return list(hooks_of(self._core, [pair], dir, contexts))  # says what is wrong
        chosen = split(one_or_several(pair[0]), attached, self._core)
        made: list[RegisteredHook] = []
        if chosen.of_saes:
            hook = SaeHook(chosen.of_saes, pair[1], dir, contexts)
            hook.exact = chosen.exact
            made.append(hook)
        if chosen.of_model:
            made += hooks_of(self._core, [(chosen.of_model, pair[1])], dir, contexts)
        return made

    def _run(
        self,
        input: ModelInput,
        request: _C.Request,
        arguments: ForwardArguments,
        own: Sequence[RegisteredHook] = (),
    ) -> _Run:
        asked = _ASKED.get() or _NOTHING
        hooks = tuple(hook for hook in own if isinstance(hook, SaeHook))
        exact = asked.exact.union(*(hook.exact for hook in hooks))
        token = _ASKED.set(asked._replace(hooks=hooks, exact=exact))
        try:
            run = super()._run(input, request, arguments, own)
        finally:
            _ASKED.reset(token)
        if asked.recording is not None:
            if asked.only_saes:
                run.cache = _C.ActivationCache()
            kept = asked.recording.saver.kept
            assert isinstance(kept, Kept)
            kept.hand_over(run.cache)
        return run

    def _add_registered(self, request: _C.Request, made: _C.Input, is_partial: bool) -> None:
        asked = _ASKED.get() or _NOTHING
        _ASKED.set(None)  # a run inside a hook has its own
        attached = self._attached()
        if attached:
            standing = [hook for hook in self._registered() if isinstance(hook, SaeHook)]
            self._add_saes(request, made, is_partial, asked, [*standing, *asked.hooks])
        super()._add_registered(request, made, is_partial)

    def _add_saes(self, request: _C.Request, made: _C.Input, is_partial: bool, asked: _Asked,
                  hooks: Sequence[SaeHook]) -> None:  # fmt: skip
        for one in self._attached().values():
            hook = one.for_run(hooks, asked.recording)
            if is_partial and not one.required and asked.exact.isdisjoint(names_of(one)):
                hook.add_where_it_fires(request, self._core, made)
            else:
                hook.add_to(request)


class _Asked(NamedTuple):
    """What one run asks of SAEs by itself."""

    hooks: tuple[SaeHook, ...] = ()
    recording: Recording | None = None
    exact: frozenset[str] = frozenset()  # names that must be reached
    only_saes: bool = False


_NOTHING = _Asked()
# From run_with_cache to _run to _add_registered.
_ASKED: ContextVar[_Asked | None] = ContextVar("bezel_asked_of_saes", default=None)
