"""What keeps values of SAEs: in one run, and over the steps of a generation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, cast

import torch

from bezel import _C
from bezel.caching_hooks import Saver
from bezel.hooks import Contexts, Direction, Hook
from bezel.sae_hooks import SaeHook, SaeSite
from bezel.sae_names import Chosen

Axes: TypeAlias = Mapping[str, tuple[str, ...]]


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

    Attributes:
        kept: What it has seen.
    """

    def __init__(self, chosen: Chosen, dir: Direction, saver: Saver) -> None:
        super().__init__(chosen.of_saes, chosen.exact, saver, dir, Contexts())
        assert isinstance(saver.kept, Kept)
        self.kept = saver.kept


class StepKeeper(_Onlooker):
    """Keeps what a generation computes, position after position.

    Args:
        chosen: What to keep.
        axes: The axis words of every name.
        joins: False where every step runs the whole text, so that the last has everything.
    """

    def __init__(self, chosen: Chosen, axes: Axes, joins: bool) -> None:
        super().__init__(chosen.of_saes, chosen.exact, self._keep, "fwd", Contexts())
        self._dims = {name: _position_axis(axes[name]) for name in chosen.of_saes}
        self._joins = joins
        self._steps: dict[str, list[torch.Tensor]] = {}

    def move_to(self, cache: _C.ActivationCache) -> None:
        """Puts all steps together behind the values of the model."""
        for name, steps in self._steps.items():
            cache.put(name, torch.cat(steps, self._dims[name]))

    def _keep(self, value: torch.Tensor, hook: Hook) -> None:
        dim, n_new = self._dims[hook.name], hook.positions.shape[1]
        new = value.narrow(dim, value.shape[dim] - n_new, n_new).clone()
        before = self._steps.get(hook.name, []) if self._joins else []
        self._steps[hook.name] = [*before, new]


def _position_axis(axes: tuple[str, ...]) -> int:
    """Where the steps of a generation follow each other; shared keys grow along k_pos."""
    return next(axes.index(word) for word in ("pos", "q_pos", "k_pos") if word in axes)
