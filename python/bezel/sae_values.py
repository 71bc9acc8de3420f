"""The part of a Bridge that knows the values inside attached SAEs wherever it takes a name."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Unpack, cast

import torch

from bezel import _C, loading
from bezel.arguments import (
    ForwardArguments,
    MediaArguments,
    ModelInput,
    Result,
    core_input,
    core_media,
)
from bezel.cache import ActivationCache
from bezel.encoding import Encoded
from bezel.hooks import Contexts, Direction, HookFunction, HookNames, HookPair, RegisteredHook
from bezel.plan import Plan, with_values
from bezel.running import _PARTIAL, Running, _Run
from bezel.sae_attaching import SaeAttaching
from bezel.sae_hooks import ModelPart, RunOfInput, SaeHook, asked_of
from bezel.sae_keeping import Keeper, Kept, StepKeeper
from bezel.sae_memory import How
from bezel.sae_names import Chosen, split
from bezel.selection import NamesFilter, OneName, PosSlice, selector


class SaeValues(SaeAttaching):
    """Names of SAE values in runs, plans, generation and hooks of every kind.

    To a run, an SAE is a hook before all others, and a hook at a value inside it one that the SAE
    calls. What is kept of the values is kept by hooks behind all others.
    """

    def run_with_cache(
        self,
        input: ModelInput,
        names_filter: NamesFilter = None,
        *,
        fwd_hooks: Iterable[HookPair] | None = None,
        bwd_hooks: Iterable[HookPair] | None = None,
        **options: Any,
    ) -> tuple[Result, ActivationCache | dict[str, torch.Tensor]]:
        """`Running.run_with_cache`, for names of attached SAEs too."""
        chosen = self._split(names_filter)
        fwd, bwd = [*(fwd_hooks or ())], [*(bwd_hooks or ())]
        names: NamesFilter = chosen.of_model
        if chosen.of_saes:
            names = self._computed(chosen, self._made_if_partial(input, options))
            self._keep(chosen, not names, _how(**options), fwd, bwd)
            names = names or self._something(options.get("start_at_layer"))
        return super().run_with_cache(input, names, fwd_hooks=fwd, bwd_hooks=bwd, **options)

    def plan(
        self,
        input_shape: tuple[int, int] | torch.Tensor,
        names_filter: NamesFilter = None,
        fwd_hooks: Iterable[HookPair] | None = None,
        **media: Unpack[MediaArguments],
    ) -> Plan:
        """`Running.plan`, for names of attached SAEs too."""
        chosen = self._split(names_filter)
        if not chosen.of_saes:
            return super().plan(input_shape, chosen.of_model, fwd_hooks, **media)
        at_places = list(dict.fromkeys(name.rpartition(".")[0] for name in chosen.of_saes))
        plan = super().plan(input_shape, chosen.of_model or at_places, fwd_hooks, **media)
        places = {at.name: at for at in super().plan(input_shape, at_places, **media).values}
        attached = self._attached()
        planned = [one for name, at in places.items() for one in attached[name].planned(at)]
        wanted = [one for one in planned if one.name in chosen.of_saes]
        return with_values(plan, wanted, alone=not chosen.of_model)

    if not TYPE_CHECKING:  # their signatures and docstrings
        run_with_cache = functools.wraps(Running.run_with_cache)(run_with_cache)
        plan = functools.wraps(Running.plan)(plan)

    def _registered(self) -> list[RegisteredHook]:
        return [*self._attached().values(), *super()._registered()]

    def _hooks_of(
        self, pairs: Iterable[HookPair] | None, dir: Direction, contexts: Contexts
    ) -> list[RegisteredHook]:
        made: list[RegisteredHook] = []
        for pair in pairs or ():
            inside, rest = self._divided(pair, dir, contexts)
            made += [*inside, *super()._hooks_of(rest, dir, contexts)]
        return made

    def _made(self, name: HookNames, hook: HookFunction, dir: Direction) -> list[RegisteredHook]:
        made: list[RegisteredHook] = []
        inside, rest = self._divided((name, hook), dir, self._standing_contexts)
        for pair in rest:
            made += super()._made(*pair, dir)
        return [*inside, *made]

    def _divided(
        self, pair: HookPair, dir: Direction, contexts: Contexts
    ) -> tuple[list[RegisteredHook], list[HookPair]]:
        """A hook that stands at values of SAEs, in its parts; or what is for the core alone."""
        given: Any = pair
        if isinstance(given, Keeper):
            return [given], []
        if not isinstance(given, tuple | list) or len(given) != 2 or given[0] is None:
            return [], [pair]  # who makes a hook of it says what is wrong
        names, function = given
        chosen = self._split(names)
        if not chosen.of_saes:
            several = not isinstance(names, str | re.Pattern) and not callable(names)
            return [], [(chosen.of_model, function) if several else pair]
        parts: list[RegisteredHook] = [
            SaeHook(chosen.of_saes, chosen.needed, function, dir, contexts)
        ]
        if chosen.of_model:
            rest = ModelPart(chosen.of_model, chosen.inside, function, dir, contexts)
            parts.append(rest.resolve(self._core))
        return parts, []

    def _split(self, names: NamesFilter | HookNames) -> Chosen:
        values = [name for one in self._attached().values() for name in one.dtypes]
        return split(names, values, self._core)

    def _dtypes(self, names_filter: NamesFilter) -> dict[str, torch.dtype]:
        chosen = self._split(names_filter)
        dtypes = {n: t for one in self._attached().values() for n, t in one.dtypes.items()}
        of_saes = {name: dtypes[name] for name in chosen.of_saes}
        if of_saes and not chosen.of_model:
            return of_saes
        return super()._dtypes(chosen.of_model) | of_saes

    def _axes(self) -> dict[str, tuple[str, ...]]:
        values = {name: one.axes for one in self._attached().values() for name in one.dtypes}
        return super()._axes() | values

    def _record(
        self, request: _C.Request, names_filter: NamesFilter, options: _C.GenerateOptions
    ) -> list[StepKeeper]:
        chosen = self._split(names_filter)
        if chosen.of_model or not chosen.of_saes:
            super()._record(request, chosen.of_model, options)
        if not chosen.of_saes:
            return []
        attached = self._attached().values()
        return [StepKeeper(chosen, self._core, attached, options.uses_kv_cache)]

    def _encode(
        self,
        media: MediaArguments,
        *,
        names_filter: NamesFilter = None,
        fwd_hooks: Iterable[HookPair] | None = None,
        bwd_hooks: Iterable[HookPair] | None = None,
        **options: Any,
    ) -> Encoded:
        chosen = self._split(names_filter)
        fwd, bwd = [*(fwd_hooks or ())], [*(bwd_hooks or ())]
        names: NamesFilter = chosen.of_model
        if chosen.of_saes:
            names = self._computed(chosen, core_media(media))
            self._keep(chosen, not names, _how(**options), fwd, bwd)
            names = names or _PROJECTED.__contains__
        return super()._encode(media, names_filter=names, fwd_hooks=fwd, bwd_hooks=bwd, **options)

    def _run_encoder(
        self, made: _C.Input, request: _C.Request, own: Sequence[RegisteredHook]
    ) -> tuple[torch.Tensor, _C.ActivationCache]:
        features, cache = super()._run_encoder(made, request, own)
        return features, _with_kept(cache, request, own)

    def _run(
        self,
        input: ModelInput,
        request: _C.Request,
        arguments: ForwardArguments,
        own: Sequence[RegisteredHook] = (),
    ) -> _Run:
        run = super()._run(input, request, arguments, own)
        run.cache = _with_kept(run.cache, request, own)
        return run

    def _add_registered(self, request: _C.Request, made: _C.Input, is_partial: bool) -> None:
        if self._attached():
            asked_of(request).run = RunOfInput(self._core, made)
        super()._add_registered(request, made, is_partial)

    def _keep(
        self, chosen: Chosen, alone: bool, how: How, fwd: list[HookPair], bwd: list[HookPair]
    ) -> None:
        """Adds what keeps values of SAEs to the hooks of a run."""
        attached, kept = self._attached().values(), Kept(how.dtype, alone)
        fwd.append(cast(HookPair, Keeper(chosen, "fwd", kept, how, attached)))
        if how.gradients:
            bwd.append(cast(HookPair, Keeper(chosen, "bwd", kept, how, attached)))

    def _made_if_partial(self, input: ModelInput, options: Any) -> _C.Input | None:
        """The input of a run that may not compute every value."""
        is_partial = not _PARTIAL.isdisjoint(options) or (
            isinstance(input, torch.Tensor) and input.is_floating_point()
        )
        if not is_partial:
            return None
        given = {key: options[key] for key in ForwardArguments.__annotations__ if key in options}
        return core_input(input, cast(ForwardArguments, given), self.tokenizer, self.cfg)

    def _computed(self, chosen: Chosen, made: _C.Input | None) -> list[OneName]:
        """What is for the core, without what the run skips where an SAE has what was meant.

        made: The input of a run that may skip something.
        """
        if made is None or not any(chosen.inside):
            return chosen.of_model
        run = RunOfInput(self._core, made)
        places = {name: one.place for one in self._attached().values() for name in one.dtypes}

        def is_for_core(name: OneName, inside: frozenset[str]) -> bool:
            if not inside or run.computes(selector(name)):
                return True
            return not any(run.computes(selector(place)) for place in {places[n] for n in inside})

        both = zip(chosen.of_model, chosen.inside, strict=True)
        return [name for name, inside in both if is_for_core(name, inside)]

    def _something(self, start: Any) -> Callable[[str], bool]:
        """A name for the core where only SAEs were named: little, and computed by every run."""
        layer = start % self.cfg.n_layers if isinstance(start, int) else 0
        return frozenset(("hook_full_embed", f"blocks.{layer}.hook_resid_pre")).__contains__


# A name for the core where only SAEs of an encoder were named.
_PROJECTED = frozenset(("vision_projector.hook_out", "audio_projector.hook_out"))


def _with_kept(
    cache: _C.ActivationCache, request: _C.Request, own: Sequence[RegisteredHook]
) -> _C.ActivationCache:
    """The cache of a run that has ended, with what was kept of its SAEs."""
    asked_of(request).run = None  # what backward() holds holds no input
    for keeper in own:
        if isinstance(keeper, Keeper):
            cache = keeper.kept.move_to(cache)
    return cache


def _how(
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    pos_slice: PosSlice | None = None,
    incl_bwd: bool = False,
    **others: Any,
) -> How:
    where = None if device is None else loading.find_device(device)
    return How(where, dtype, pos_slice, incl_bwd)
