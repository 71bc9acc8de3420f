"""The part of a Bridge that holds sparse autoencoders: added ones, and those of a `with`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from bezel import open_hooks
from bezel.errors import ArgumentError
from bezel.generating import Generating
from bezel.hooks import Contexts, RegisteredHook
from bezel.sae import SAE
from bezel.sae_attached import AttachedSae


class SaeAttaching(Generating):
    """SAEs that are part of the model for a call, inside a `with`, or until `reset_saes`.

    An attached SAE takes the value of its name and gives its reconstruction, before any other hook
    there sees it. Its own values have names too, "<name>.hook_sae_acts_post" and so on, which
    names_filter and hooks of every kind take like others, also as globs:
    hook_sae_input, hook_sae_recons [… d_in], hook_sae_acts_pre, hook_sae_acts_post [… d_sae],
    hook_sae_error (with the error term) and hook_sae_output with the axes of the value. In a cache
    they stand behind those of the model.

    At one name there is one SAE: that of the innermost `with`, or the last added. `reset_hooks`
    leaves SAEs alone. A hook that stands at a value of an SAE needs one in every run: where there
    is none, the run is refused (HookNeverFiredError). A glob or callable that also chooses values
    of the model is content with those.
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
        given = attached if act_names is None else act_names
        gone = {given} if isinstance(given, str) else set(given)
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
        saes = [*self._saes, *(one for scope in scopes for one in scope.hooks)]
        return {one.place: one for one in saes if isinstance(one, AttachedSae)}
