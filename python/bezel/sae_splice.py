"""What an SAE does at its place in one run: values are shown, edited, kept, differentiated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch

from bezel import _C
from bezel.caching_hooks import Saver
from bezel.errors import ArgumentError, HookResultError
from bezel.hooks import Contexts, Direction, Hook, HookFunction, RegisteredHook
from bezel.sae import SAE

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
    """A hook at values of SAEs: the splice calls it, not the core."""

    def __init__(
        self, names: Sequence[str], function: HookFunction, dir: Direction, contexts: Contexts
    ) -> None:
        super().__init__(names, function, dir, contexts)
        self.names = tuple(names)
        self.exact: frozenset[str] = frozenset()  # names that the run must reach

    def resolve(self, core: _C.Bridge) -> RegisteredHook:
        """Its names are known already."""
        return self

    def add_to(self, request: _C.Request) -> None:
        """The core has no such value."""

    def add_where_it_fires(self, request: _C.Request, core: _C.Bridge, made: _C.Input) -> None:
        """The core has no such value."""

    def apply(self, value: torch.Tensor, site: _Site) -> torch.Tensor:
        """What the function makes of its own copy of a value."""
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


class _Site(NamedTuple):
    name: str
    layer: int | None
    dir: Direction
    step: int
    positions: torch.Tensor
    key_positions: torch.Tensor


class Kept(dict[str, torch.Tensor]):
    """What a run keeps of SAEs; in its cache from the moment that there is one."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype
        self.cache: _C.ActivationCache | None = None

    def __setitem__(self, name: str, value: torch.Tensor) -> None:
        if value.is_floating_point():
            value = value.to(self.dtype)
        if self.cache is None:
            super().__setitem__(name, value)
        else:
            self.cache.put(name, value)

    def hand_over(self, cache: _C.ActivationCache) -> None:
        """Puts everything, and what backward() will bring, into a cache."""
        for name, value in self.items():
            cache.put(name, value)
        self.cache = cache


class Recording(NamedTuple):
    """What `run_with_cache` asked for."""

    names: frozenset[str]
    gradients: bool
    saver: Saver


class Splice:
    """A hook function that puts an SAE in the place of the value.

    Attributes:
        sae: The SAE.
        use_error_term: Add what it misses, as a constant.
        hooks: What this run does to the values inside.
        recording: What this run keeps of them.
    """

    def __init__(
        self,
        sae: SAE,
        use_error_term: bool = False,
        hooks: Sequence[SaeHook] = (),
        recording: Recording | None = None,
    ) -> None:
        self.sae = sae
        self.use_error_term = use_error_term
        self.hooks = hooks
        self.recording = recording

    def __call__(self, value: torch.Tensor, hook: Hook) -> torch.Tensor:
        """The reconstruction of a value, in its shape and dtype."""
        if not value.is_floating_point():
            raise ArgumentError(f'an SAE at "{hook.name}": the value there is {value.dtype}')
        n_axes = axes_of_features(value.shape, self.sae.cfg.d_in, hook.name)
        tap = _Tap(hook, self.hooks, self.recording)
        flat = value.flatten(-n_axes)
        made = self.sae.decode(self.sae.encode(flat, tap), tap).reshape(value.shape)
        if self.use_error_term:
            made = self._with_error(value, flat, made, tap)
        return tap("hook_sae_output", made.to(value.dtype))

    def _with_error(
        self, value: torch.Tensor, flat: torch.Tensor, made: torch.Tensor, tap: _Tap
    ) -> torch.Tensor:
        """The sum; where the error is as it was: value + (made - clean), without rounding."""
        with torch.no_grad():
            clean = self.sae(flat).reshape(value.shape) if tap.edited else made
            exact = value
            if tap.edited:
                exact = value.to(torch.promote_types(value.dtype, made.dtype)) + (made - clean)
            error = value.to(made.dtype) - clean
        tap.edited = False
        error = tap("hook_sae_error", error)
        return made + error if tap.edited else _Sum.apply(made, error, exact)  # type: ignore[no-untyped-call]


class _Sum(torch.autograd.Function):
    """A sum whose rounded value is given."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        ctx.dtype = a.dtype
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        return grad.to(ctx.dtype), grad.to(ctx.dtype), None


class _Tap:
    """Shows the values of one call: hooks first, then what is kept, then gradients."""

    def __init__(self, at: Hook, hooks: Sequence[SaeHook], recording: Recording | None) -> None:
        self.edited = False
        self._at = at
        self._hooks = hooks
        self._recording = recording

    def __call__(self, part: str, value: torch.Tensor) -> torch.Tensor:
        name = f"{self._at.name}.{part}"
        here = [hook for hook in self._hooks if name in hook.names]
        for hook in here:
            if hook.dir == "fwd":
                value = hook.apply(value, self._site(name, "fwd"))
                self.edited = True
        keeps = self._recording is not None and name in self._recording.names
        if keeps:
            self._keep(name, "fwd", value)
        backward = [hook for hook in here if hook.dir == "bwd"]
        if backward or (keeps and self._recording is not None and self._recording.gradients):
            value = self._watched(name, value, backward, keeps)
        return value

    def _watched(
        self, name: str, value: torch.Tensor, hooks: list[SaeHook], keeps: bool
    ) -> torch.Tensor:
        if not torch.is_grad_enabled():
            raise ArgumentError(
                f'the gradient at "{name}" was asked for while autograd is switched off; leave '
                "torch.no_grad() or torch.inference_mode()"
            )
        if not value.requires_grad:
            value = value.detach().requires_grad_()
        keeps = keeps and self._recording is not None and self._recording.gradients

        def arrive(gradient: torch.Tensor) -> torch.Tensor:
            for hook in hooks:
                gradient = hook.apply(gradient, self._site(name, "bwd"))
            if keeps:
                self._keep(name, "bwd", gradient)
            return gradient

        value.register_hook(arrive)  # type: ignore[no-untyped-call]
        return value

    def _keep(self, name: str, dir: Direction, value: torch.Tensor) -> None:
        assert self._recording is not None
        self._recording.saver(value, Hook(cast(_C.HookSite, self._site(name, dir)), {}))

    def _site(self, name: str, dir: Direction) -> _Site:
        at = self._at
        return _Site(name, at._layer, dir, at.step, at.positions, at.key_positions)


def axes_of_features(shape: Sequence[int | None], d_in: int, name: str) -> int:
    """How many last axes hold an SAE's d_in numbers; None in the shape: the input decides it."""
    product = 1
    for n_axes, size in enumerate(reversed(shape), start=1):
        if size is None:
            if n_axes == 1:
                return 1
            break
        product *= size
        if product == d_in:
            return n_axes
        if product > d_in:
            break
    told = [size if size is not None else "…" for size in shape]
    raise ArgumentError(
        f'the SAE has d_in={d_in}; the value "{name}" is {told}, and no number of its last axes '
        f"holds {d_in} together"
    )
