"""The part of a Bridge that knows the values inside attached SAEs wherever it takes a name."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from bezel import _C, loading
from bezel.arguments import ForwardArguments, ModelInput, Result, core_input
from bezel.cache import ActivationCache
from bezel.hooks import Contexts, Direction, HookFunction, HookNames, HookPair, RegisteredHook
from bezel.plan import Plan, with_values
from bezel.running import Running, _Run
from bezel.sae_attaching import SaeAttaching
from bezel.sae_hooks import SaeHook
from bezel.sae_keeping import Keeper, Kept, StepKeeper
from bezel.sae_memory import How, check_fits
from bezel.sae_names import Chosen, split
from bezel.selection import NamesFilter, PosSlice


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
        if chosen.of_saes:
            how = _how(**options)
            kept, axes = Kept(how.dtype, alone=not chosen.of_model), self._axes()
            fwd.append(cast(HookPair, Keeper(chosen, "fwd", kept, how, axes)))
            if how.gradients:
                bwd.append(cast(HookPair, Keeper(chosen, "bwd", kept, how, axes)))
        alone = chosen.of_saes and not chosen.of_model
        names = self._something(options.get("start_at_layer")) if alone else chosen.of_model
        return super().run_with_cache(input, names, fwd_hooks=fwd, bwd_hooks=bwd, **options)

    def plan(
        self,
        input_shape: tuple[int, int],
        names_filter: NamesFilter = None,
        fwd_hooks: Iterable[HookPair] | None = None,
    ) -> Plan:
        """`Running.plan`, for names of attached SAEs too."""
        chosen = self._split(names_filter)
        if not chosen.of_saes:
            return super().plan(input_shape, chosen.of_model, fwd_hooks)
        at_places = list(dict.fromkeys(name.rpartition(".")[0] for name in chosen.of_saes))
        plan = super().plan(input_shape, chosen.of_model or at_places, fwd_hooks)
        places = {at.name: at for at in super().plan(input_shape, at_places).values}
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
    ) -> tuple[list[SaeHook], list[HookPair]]:
        """What of a hook stands at values of SAEs, and what is for the core."""
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
        inside = SaeHook(chosen.of_saes, chosen.exact, function, dir, contexts)
        return [inside], [(chosen.of_model, function)] if chosen.of_model else []

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

    def _run(
        self,
        input: ModelInput,
        request: _C.Request,
        arguments: ForwardArguments,
        own: Sequence[RegisteredHook] = (),
    ) -> _Run:
        keepers = [hook for hook in own if isinstance(hook, Keeper)]
        for keeper in keepers:
            made = core_input(input, arguments, self.tokenizer, self.cfg)
            check_fits(self._core, made, self._attached().values(), keeper.names, keeper.how)
        run = super()._run(input, request, arguments, own)
        for keeper in keepers:
            run.cache = keeper.kept.move_to(run.cache)
        return run

    def _something(self, start: Any) -> Callable[[str], bool]:
        """A name for the core where only SAEs were named: little, and computed by every run."""
        layer = start % self.cfg.n_layers if isinstance(start, int) else 0
        return frozenset(("hook_full_embed", f"blocks.{layer}.hook_resid_pre")).__contains__


def _how(
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    pos_slice: PosSlice | None = None,
    incl_bwd: bool = False,
    **others: Any,
) -> How:
    where = None if device is None else loading.find_device(device)
    return How(where, dtype, pos_slice, incl_bwd)
