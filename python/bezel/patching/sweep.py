"""Activation patching: one value of a clean run at a time, put into a corrupted run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

import torch
from tqdm.auto import tqdm

from bezel.arguments import ModelInput
from bezel.cache import ActivationCache
from bezel.errors import ArgumentError
from bezel.names import HookPoint
from bezel.patching.cells import Cell, Cells, as_frame, cells_of
from bezel.patching.corrupted import CorruptedRun, SweepArguments, patched
from bezel.patching.memory import cells_at_once
from bezel.patching.metrics import Metric, Metrics, Reduce
from bezel.patching.result import PatchingResult
from bezel.patching.setters import PatchSetter

if TYPE_CHECKING:
    from bezel.bridge import Bridge

Values: TypeAlias = ActivationCache | Mapping[str, torch.Tensor]
SweepResult: TypeAlias = torch.Tensor | tuple[torch.Tensor, Any] | PatchingResult


def generic_activation_patch(  # noqa: PLR0913  TransformerLens's signature
    model: Bridge,
    corrupted_tokens: ModelInput,
    clean_cache: Values,
    patching_metric: Metric | Mapping[str, Metric],
    patch_setter: PatchSetter,
    activation_name: str,
    index_axis_names: Sequence[str] | None = None,
    index_df: Any | None = None,
    return_index_df: bool = False,
    *,
    reduce: Reduce = "scalar",
    baseline: bool = False,
    verbose: bool = True,
    bytes_at_hand: int | None = None,
    **arguments: Unpack[SweepArguments],
) -> SweepResult:
    """Patches one value at a time from a clean run into a corrupted one, and measures each run.

    The sweep is planned: the corrupted run is made once, and cells at block L begin with its stream
    at L (and its per-layer embeddings, and the keys and values of donors before L) at the first
    position that the patch changes, many cells in a batch. Results are those of a loop of
    `run_with_hooks`, to rounding. Hooks of the Bridge apply; before block L they are called once
    and not once for each cell, and where there are any, cells run all positions.

    A patch of `hook_resid_pre` is a patch of the stream alone: the per-layer embeddings of the
    blocks from L on, and the keys and values that they share with donors before L, stay corrupted.

    Args:
        model: The Bridge.
        corrupted_tokens: Token ids [batch pos], or text.
        clean_cache: Values of the clean run by full name, each [batch …] or [1 …].
        patching_metric: Called with one cell's logits [batch pos d_vocab]; a number, or with
            reduce="mean" or "none" a tensor [batch]. A mapping measures several.
        patch_setter: Called for each cell as patch_setter(corrupted, index, clean): the corrupted
            value of that cell's rows (its own to write into), a list of ints, and the clean value.
            It returns the patched value. See `along`.
        activation_name: "z", "resid_pre", "ple.hook_input" …: with the layer, as `get_act_name`.
            A full name of an encoder, with "*" in the place of the layer where "layer" is an index
            axis: "vision_encoder.blocks.*.attn.hook_z"; such cells run one by one.
        index_axis_names: Axes of a full grid: "layer" first for values of blocks, then "pos",
            "head" or "head_index", "dest_pos", "src_pos", or an axis of the value.
        index_df: Instead, one row of indices for each patch: a pandas.DataFrame or a list of lists.
        return_index_df: Return the indices too, as a pandas.DataFrame.
        reduce: "scalar"; "mean" of a metric [batch]; "none" keeps rows, in a PatchingResult.
        baseline: Measure the unpatched run too, in a PatchingResult.
        verbose: Show a progress bar.
        bytes_at_hand: For the values of cells that run together; None: a quarter of what is free.
        **arguments: attention_mask, position_ids, mm_token_type_ids, logits_to_keep, prepend_bos,
            padding_side, and media, as in `forward`; the media are those of the corrupted run.

    Returns:
        [one axis for each of index_axis_names], or [row] for index_df; float32, or float64 where
        the metric is. NaN where a layer has no such value or head: keys and values of a sharing
        layer, layers without experts, layers with fewer heads.

    Raises:
        UnknownHookError, HookNotApplicableError: No layer has such a value.
        ArgumentError: For indices, metrics or clean values that do not fit.

    Example:
        >>> clean = b.to_tokens("When Hugo and Mary went to the shop , Mary gave a drink to")
        >>> corrupted = b.to_tokens("When Hugo and Mary went to the shop , Hugo gave a drink to")
        >>> _, cache = b.run_with_cache(clean, "blocks.*.attn.hook_z")
        >>> hugo = b.to_single_token("Hugo")
        >>> heads = generic_activation_patch(
        ...     b, corrupted, cache, lambda logits: logits[0, -1, hugo],
        ...     along(2), "z", ("layer", "head"), verbose=False)
        >>> heads.shape
        torch.Size([10, 4])
    """
    metrics = Metrics(patching_metric, reduce)
    wants_result = metrics.is_mapping or reduce == "none" or baseline
    if wants_result and return_index_df:
        raise ArgumentError("a PatchingResult has its index_df; leave return_index_df out")
    run = CorruptedRun(model, corrupted_tokens, **arguments)
    cells = cells_of(model, activation_name, index_axis_names, index_df, run.shape_of)
    sweep = _Sweep(run, clean_cache, patch_setter, metrics)
    with tqdm(total=len(cells.cells), disable=not verbose, desc=activation_name) as bar:
        values, base = sweep.run(cells, bytes_at_hand, bar)
    if reduce == "mean":
        values, base = values.mean(-1), base.mean(-1)
    if not metrics.is_mapping:
        values, base = values[0], base[0]
    if not wants_result:
        return (values, as_frame(cells)) if return_index_df else values
    return PatchingResult(
        values=values,
        baseline=base if baseline else None,
        axis_names=cells.axis_names,
        metric_names=metrics.names,
        reduced=reduce != "none",
        cells=cells,
        has_metric_axis=metrics.is_mapping,
    )


class _Sweep:
    def __init__(
        self,
        run: CorruptedRun,
        clean_cache: Values,
        patch_setter: PatchSetter,
        metrics: Metrics,
    ) -> None:
        self._run = run
        self._clean_cache = clean_cache
        self._patch_setter = patch_setter
        self._metrics = metrics

    def run(
        self, cells: Cells, bytes_at_hand: int | None, bar: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The metrics of every cell [metric cell axes … batch?] and of the unpatched run."""
        by_value: dict[HookPoint, list[Cell]] = {}
        for cell in cells.cells:
            if cell.point is not None:
                by_value.setdefault(cell.point, []).append(cell)
        clean = {point.name: self._clean_value(point) for point in by_value}
        at_once = cells_at_once(self._run, clean, bytes_at_hand)
        sweep = self._run.sweep(clean)
        base = self._metrics(sweep.logits)
        store = base.new_full((len(cells.cells), *base.shape), float("nan"))
        bar.update(sum(cell.point is None for cell in cells.cells))
        for point, group in by_value.items():
            unpatched = sweep.value(point.name)
            for first in range(0, len(group), at_once):
                some = group[first : first + at_once]
                values = [self._patched(cell, unpatched, clean[point.name]) for cell in some]
                for cell, logits in zip(some, sweep.run(point.name, values), strict=True):
                    store[cell.row] = self._metrics(logits)
                    bar.update()
        return store.movedim(0, 1).reshape(-1, *cells.shape, *base.shape[1:]), base

    def _patched(self, cell: Cell, unpatched: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        assert cell.point is not None
        value = unpatched.clone()
        result = self._patch_setter(value, list(cell.indices), clean)
        return patched(value, result, cell.point.name)

    def _clean_value(self, point: HookPoint) -> torch.Tensor:
        if point.name not in self._clean_cache:
            raise ArgumentError(
                f'clean_cache has no "{point.name}"; record it: '
                f'run_with_cache(clean_tokens, "{point.name}")'
            )
        value = self._clean_cache[point.name]
        if isinstance(self._clean_cache, ActivationCache) and not self._clean_cache.has_batch_dim:
            value = value.unsqueeze(0) if point.axes[0] == "batch" else value
        if point.axes[0] == "batch" and value.shape[0] not in (1, self._run.n_batch):
            raise ArgumentError(
                f'"{point.name}" of clean_cache has {value.shape[0]} rows and the corrupted run '
                f"{self._run.n_batch}; wanted as many, or 1"
            )
        return value
