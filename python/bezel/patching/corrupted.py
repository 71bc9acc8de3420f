"""The run that a sweep patches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Unpack, cast

import torch

from bezel import _C
from bezel.arguments import ForwardArguments, MediaArguments, ModelInput, core_input
from bezel.errors import ArgumentError, HookResultError
from bezel.text import PaddingSide

if TYPE_CHECKING:
    from bezel.bridge import Bridge


class SweepArguments(MediaArguments, total=False):
    """What a sweep takes of `forward`; every cell runs with it."""

    prepend_bos: bool | None
    padding_side: PaddingSide | None
    attention_mask: torch.Tensor | None
    position_ids: torch.Tensor | None
    logits_to_keep: int | None


class CorruptedRun:
    """One run of the unpatched input, which cells begin in the middle of.

    Attributes:
        n_batch: Rows of the input.
        n_pos: Positions.
    """

    def __init__(
        self, bridge: Bridge, tokens: ModelInput, **arguments: Unpack[SweepArguments]
    ) -> None:
        for name in arguments:
            if name not in SweepArguments.__annotations__:
                raise ArgumentError(
                    f"{name}= cannot be given to a sweep; it takes "
                    + ", ".join(SweepArguments.__annotations__)
                )
        self._bridge = bridge
        self._hooks = [hook for hook in bridge._registered() if hook.dir == "fwd"]
        self._input = core_input(
            tokens, cast(ForwardArguments, arguments), bridge.tokenizer, bridge.cfg
        )
        if self._input.tokens is None:
            raise ArgumentError("a sweep patches a run of token ids or text, and this is a float")
        self.n_batch, self.n_pos = self._input.tokens.shape

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._bridge.device

    def bytes_by_name(self, *names: str) -> dict[str, int]:
        """What each value that these names or globs choose takes in a run."""
        return {value.name: value.n_bytes for value in self._planned(names)}

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a value in a run. Raises as the run would where it has none."""
        return tuple(self._planned([name])[0].shape)

    def _planned(self, names: Iterable[str]) -> list[_C.PlannedValue]:
        request = _C.Request()
        for name in names:
            request.record(_C.Selector(name))
        return self._bridge._core.plan(self._input, request).values

    def sweep(self, names: Iterable[str]) -> _C.PatchSweep:
        """Runs it, with the hooks of the Bridge, standing and of open `with` blocks.

        Args:
            names: The values that cells will patch.
        """
        request = _C.Request()
        for hook in self._hooks:
            if hook.needs_media:
                hook.add_where_it_fires(request, self._bridge._core, self._input)
            else:
                hook.add_to(request)
        for name in names:
            request.record(_C.Selector(name))
        return _C.PatchSweep(self._bridge._core, self._input, request, self._bridge._path)


def patched(value: torch.Tensor, result: torch.Tensor | None, name: str) -> torch.Tensor:
    """What a function made of a value that it may have written into. Raises HookResultError."""
    if result is None:
        return value
    if not isinstance(result, torch.Tensor) or result.shape != value.shape:
        got = list(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
        raise HookResultError(
            f'the function at "{name}" returned {got}; wanted None or a tensor {list(value.shape)}'
        )
    return result.to(value)
