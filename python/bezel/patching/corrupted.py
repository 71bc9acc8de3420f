"""The run that a sweep patches, kept so that each cell can begin in the middle of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeAlias, TypedDict, Unpack, cast

import torch

from bezel import _C
from bezel.arguments import ForwardArguments, ModelInput, core_input
from bezel.errors import ArgumentError, HookResultError
from bezel.hooks import RegisteredHook
from bezel.text import PaddingSide

if TYPE_CHECKING:
    from bezel.bridge import Bridge


Patched: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


class SweepArguments(TypedDict, total=False):
    """What a sweep takes of `forward`; every cell runs with it."""

    prepend_bos: bool | None
    padding_side: PaddingSide | None
    attention_mask: torch.Tensor | None
    position_ids: torch.Tensor | None
    mm_token_type_ids: torch.Tensor | None
    logits_to_keep: int | None


class CorruptedRun:
    """One run of the unpatched input, with what runs from the middle of it need.

    The hooks of the Bridge, standing and of open `with` blocks, are taken once, here. They apply to
    this run as to any; a run from block L then gets those at values behind its beginning, each
    called on the rows of one cell at a time, as in a run of that cell alone.

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
        self._names = [row[0] for row in bridge._core.hook_points()]
        self._values: dict[str, torch.Tensor] = {}
        self._state: dict[str, torch.Tensor] = {}
        self._valid: torch.Tensor | None = None

    def run(self, starts: Iterable[int]) -> torch.Tensor:
        """The unpatched run; keeps what cells need that begin at these blocks.

        Returns:
            Logits [batch pos d_vocab].
        """
        state = _state_names(self._bridge.cfg)
        request = _C.Request()
        for hook in self._hooks:
            hook.add_to(request)
        for start in set(starts):
            request.record(_C.Selector(_stream(start)))
        for name in state:
            request.record(_C.Selector(name))
        run = self._run(self._input, request)
        self._values = dict(run.cache.items())
        self._state = {name: self._values[name] for name in state}
        self._valid = run.valid
        logits: torch.Tensor = run.output
        return logits

    def cells(self, start: int | None, n_cells: int, name: str, patched: Patched) -> torch.Tensor:
        """Runs cells side by side in one batch.

        Args:
            start: The block at which they begin; None begins with the tokens.
            n_cells: How many.
            name: Of which value.
            patched: A function of it, [cell*batch …], that gives the patched value.

        Returns:
            Logits [cell batch pos d_vocab].
        """
        request = _C.Request()
        made = _C.Input()
        skipped: frozenset[str] = frozenset()
        mask = self._input.attention_mask if start is None else self._valid
        if start is None:
            assert self._input.tokens is not None
            made.tokens = _repeated(self._input.tokens, n_cells)
        else:
            made.embeddings = _repeated(self._values[_stream(start)], n_cells)
            made.start_at_layer = start
            made.start_state = {n: _repeated(v, n_cells) for n, v in self._state_from(start)}
            skipped = frozenset(self._names[: self._names.index(_stream(start)) + 1])
        if mask is not None:
            made.attention_mask = _repeated(mask.long(), n_cells)
        for field in ("position_ids", "token_types"):
            if (value := getattr(self._input, field)) is not None:
                setattr(made, field, _repeated(value, n_cells))
        if self._input.logits_to_keep is not None:
            made.logits_to_keep = self._input.logits_to_keep
        for hook in self._hooks:
            function = _each_cell(hook, self.n_batch)
            for at in hook.names:
                if at not in skipped:
                    request.edit(_C.Selector(at), function, False)
        request.edit(_C.Selector(name), lambda value, site: patched(value), False)
        logits: torch.Tensor = self._run(made, request).output
        return logits.view(n_cells, self.n_batch, *logits.shape[1:])

    def _run(self, made: _C.Input, request: _C.Request) -> _C.RunResult:
        with torch.no_grad():
            return self._bridge._core.run(made, request, self._bridge._path, _C.Output.logits)

    def _state_from(self, start: int) -> Iterable[tuple[str, torch.Tensor]]:
        for name, value in self._state.items():
            if not name.startswith("blocks.") or int(name.split(".")[1]) < start:
                yield name, value


def _stream(layer: int) -> str:
    return f"blocks.{layer}.hook_resid_pre"


def _state_names(spec: _C.ModelSpec) -> list[str]:
    names = ["ple.hook_inputs"] if spec.d_ple else []
    donors = [i for i, layer in enumerate(spec.layers) if layer.attention.donates]
    parts = ("rot_k", "v_normed")
    return names + [f"blocks.{i}.attn.hook_{part}" for i in donors for part in parts]


def _repeated(value: torch.Tensor, n_cells: int) -> torch.Tensor:
    """[batch …] -> [cell*batch …], without a copy where the batch is one row."""
    return value.expand(n_cells, *value.shape).flatten(0, 1)


def _each_cell(
    hook: RegisteredHook, n_batch: int
) -> Callable[[torch.Tensor, _C.HookSite], torch.Tensor]:
    def call(value: torch.Tensor, site: _C.HookSite) -> torch.Tensor:
        for first in range(0, value.shape[0], n_batch):
            rows = slice(first, first + n_batch)
            place = SimpleNamespace(
                name=site.name,
                layer=site.layer,
                dir=site.dir,
                step=site.step,
                positions=site.positions[rows],
                key_positions=site.key_positions[rows],
            )
            write(value[rows], hook._call(value[rows], cast(_C.HookSite, place)), site.name)
        return value

    return call


def write(rows: torch.Tensor, result: torch.Tensor | None, name: str) -> None:
    """Puts what a function made of its rows in their place. Raises HookResultError if unlike."""
    if result is None:
        return
    if not isinstance(result, torch.Tensor) or result.shape != rows.shape:
        got = list(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
        raise HookResultError(
            f'the function at "{name}" returned {got}; wanted None or a tensor {list(rows.shape)}'
        )
    if result.data_ptr() != rows.data_ptr() or result.stride() != rows.stride():
        rows.copy_(result)
