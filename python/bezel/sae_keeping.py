"""What keeps values of SAEs: in one run, and over the steps of a generation."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypeAlias, cast

import torch

from bezel import _C
from bezel.arguments import continued
from bezel.caching_hooks import Saver
from bezel.hooks import Contexts, Direction, Hook
from bezel.sae_attached import AttachedSae
from bezel.sae_hooks import RunOfInput, SaeHook, SaeSite, asked_of
from bezel.sae_memory import How, check_fits
from bezel.sae_names import Chosen

Axes: TypeAlias = tuple[str, ...]


class Kept(dict[str, torch.Tensor]):
    """Values of one run by name; from `move_to` on they go into its cache.

    Attributes:
        dtype: In which floating ones are kept; None leaves them.
        alone: Nothing of the model was asked for.
    """

    def __init__(self, dtype: torch.dtype | None, alone: bool) -> None:
        super().__init__()
        self.dtype = dtype
        self.alone = alone
        self._cache: _C.ActivationCache | None = None

    def __setitem__(self, name: str, value: torch.Tensor) -> None:
        value = value.to(self.dtype)
        if self._cache is None:
            super().__setitem__(name, value)
        else:
            self._cache.put(name, value)

    def move_to(self, cache: _C.ActivationCache) -> _C.ActivationCache:
        """Puts everything, and what backward() will bring, behind the values of the model."""
        self._cache = _C.ActivationCache() if self.alone else cache
        for name, value in self.items():
            self._cache.put(name, value)
        return self._cache


class _Onlooker(SaeHook):
    """Sees values of SAEs behind every other hook, and changes none."""

    def apply(self, value: torch.Tensor, site: SaeSite) -> torch.Tensor:
        """The value."""
        self._call(value, cast(_C.HookSite, site))
        return value


class Keeper(_Onlooker):
    """Keeps what one run computes.

    Args:
        chosen: What to keep.
        dir: Values or gradients.
        kept: Where they go.
        how: On which device, and which part of them.
        attached: The SAEs.
    """

    def __init__(
        self,
        chosen: Chosen,
        dir: Direction,
        kept: Kept,
        how: How,
        attached: Collection[AttachedSae],
    ) -> None:
        axes = {name: one.axes for one in attached for name in one.dtypes}
        saver = Saver(kept, axes, how.device, remove_batch_dim=False, pos_slice=how.pos_slice)
        super().__init__(chosen.of_saes, chosen.needed, saver, dir, Contexts())
        self.kept = kept
        self._how, self._attached = how, attached

    def add_to(self, request: _C.Request) -> None:
        """Adds it. Raises CacheTooLargeError where not everything that is kept would fit."""
        run = asked_of(request).run
        if run is not None and self.dir == "fwd":
            beside = None if self.kept.alone else request
            check_fits(run, beside, self._attached, self.names, self._how)
        super().add_to(request)


class StepKeeper(_Onlooker):
    """Keeps what a generation computes, position after position.

    Args:
        chosen: What to keep.
        core: The model.
        attached: Its SAEs.
        joins: False where every step runs the whole text, so that the last has everything.
    """

    def __init__(
        self, chosen: Chosen, core: _C.Bridge, attached: Iterable[AttachedSae], joins: bool
    ) -> None:
        super().__init__(chosen.of_saes, chosen.needed, self._keep, "fwd", Contexts())
        self._core = core
        self._attached = list(attached)
        self._dims = {n: _position_axis(one.axes) for one in self._attached for n in one.dtypes}
        self._joins = joins
        self._steps: dict[str, list[torch.Tensor]] = {}

    def begin(self, request: _C.Request, prompt: _C.Input, max_new_tokens: int) -> None:
        """Adds it to every step. Raises CacheTooLargeError where all of them would not fit."""
        if prompt.tokens is not None:
            run = RunOfInput(self._core, continued(prompt, max(0, max_new_tokens)))
            check_fits(run, request, self._attached, self.names, How())
        self.add_to(request)

    def move_to(self, cache: _C.ActivationCache) -> None:
        """Puts all steps together behind the values of the model."""
        for name in list(self._steps):  # the steps of a name go before the next is joined
            cache.put(name, torch.cat(self._steps.pop(name), self._dims[name] or 0))

    def _keep(self, value: torch.Tensor, hook: Hook) -> None:
        dim = self._dims[hook.name]
        if dim is None:  # of an encoder: the media came with the prompt
            self._steps[hook.name] = [value.clone()]
            return
        n_new = hook.positions.shape[1]
        new = value.narrow(dim, value.shape[dim] - n_new, n_new).clone()
        before = self._steps.get(hook.name, []) if self._joins else []
        self._steps[hook.name] = [*before, new]


def _position_axis(axes: Axes) -> int | None:
    """Where the steps of a generation follow each other; shared keys grow along k_pos."""
    return next((axes.index(word) for word in ("pos", "q_pos", "k_pos") if word in axes), None)
