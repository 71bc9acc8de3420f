"""Ablation: a value replaced by nothing, by its mean, or by that of another row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Unpack

import torch

from bezel.arguments import ModelInput
from bezel.errors import ArgumentError
from bezel.patching.attribution import values_of
from bezel.patching.cells import cells_of
from bezel.patching.corrupted import SweepArguments
from bezel.patching.metrics import Metric
from bezel.patching.setters import PatchSetter
from bezel.patching.sweep import SweepResult, Values, generic_activation_patch
from bezel.selection import NamesFilter

if TYPE_CHECKING:
    from bezel.bridge import Bridge

Kind: TypeAlias = Literal["zero", "mean", "mean_by_pos", "resample"]


def ablated(
    model: Bridge,
    reference: Values | ModelInput,
    kind: Kind,
    names_filter: NamesFilter = None,
    *,
    seed: int = 0,
    **arguments: Unpack[SweepArguments],
) -> dict[str, torch.Tensor]:
    """Values to put in the place of others: a clean cache for sweeps that ablate.

    Args:
        model: The Bridge.
        reference: The run or runs to take means or rows from: a cache, token ids, or text. "zero"
            takes shapes from it, nothing else.
        kind: "zero"; "mean" over rows and positions; "mean_by_pos" over rows; "resample": another
            row, the same for every name, no row its own.
        names_filter: Which floating values; None is all of the reference.
        seed: Of "resample".
        **arguments: Of the run, where reference is none yet: attention_mask ….

    Returns:
        By name, with the shapes of the reference. "mean" counts padding too: give rows without it.

    Raises:
        ArgumentError: "resample" of a single row, or "mean" of a value with two position axes.

    Example:
        >>> means = ablated(b, ["Of 7 and 22", "Of 5 and 4"], "mean", "blocks.*.attn.hook_z")
        >>> hooks = [(name, lambda z, hook: means[hook.name][:1]) for name in list(means)]
        >>> logits = b.run_with_hooks("Of 7 and 4", hooks)
    """
    found = values_of(model, reference, names_filter, **arguments)
    values = {name: value for name, value in found.items() if value.is_floating_point()}
    if kind == "zero":
        return {name: torch.zeros_like(value) for name, value in values.items()}
    if kind == "resample":
        return _resampled(values, seed)
    if kind not in ("mean", "mean_by_pos"):
        raise ArgumentError(f'kind is {kind!r}; wanted "zero", "mean", "mean_by_pos" or "resample"')
    axes = {point.name: point.axes for point in model.hook_points()}
    made = {}
    for name, value in values.items():
        if axes[name][0] != "batch":
            raise ArgumentError(
                f'"{name}" [{" ".join(axes[name])}] has no rows to take means over; take "zero"'
            )
        dims = [0] + [i for i, axis in enumerate(axes[name]) if axis.endswith("pos")]
        if kind == "mean_by_pos":
            dims = [0]
        elif len(dims) > 2:
            raise ArgumentError(
                f'"{name}" [{" ".join(axes[name])}] has no mean over positions; take "mean_by_pos"'
            )
        made[name] = value.mean(dims, keepdim=True).expand_as(value)
    return made


def ablation_patch(  # noqa: PLR0913  a sweep's arguments
    model: Bridge,
    tokens: ModelInput,
    metric: Metric,
    patch_setter: PatchSetter,
    activation_name: str,
    index_axis_names: Sequence[str] | None = None,
    index_df: Any | None = None,
    *,
    kind: Kind = "mean",
    reference: Values | ModelInput | None = None,
    seed: int = 0,
    **arguments: Any,
) -> SweepResult:
    """Ablates one value at a time, and measures each run: a planned sweep.

    Args:
        model: The Bridge.
        tokens: Token ids [batch pos], or text.
        metric: Of one cell's logits [batch pos d_vocab].
        patch_setter: What a cell replaces, such as `along(2)`: see `generic_activation_patch`.
        activation_name: As there.
        index_axis_names: As there.
        index_df: As there.
        kind: As in `ablated`.
        reference: As in `ablated`; None takes the tokens themselves.
        seed: As in `ablated`.
        **arguments: Of `generic_activation_patch`.

    Returns:
        As there.

    Example:
        >>> heads = ablation_patch(
        ...     b, "Of 7 and 4 , the larger is", lambda logits: logits[0, -1, 9],
        ...     along(2), "z", ("layer", "head"), kind="zero", verbose=False)
        >>> heads.shape
        torch.Size([10, 4])
    """
    names = _names_of(model, activation_name, index_axis_names, index_df)
    own = {k: v for k, v in arguments.items() if k in SweepArguments.__annotations__}
    if reference is None:
        values = ablated(model, tokens, kind, names, seed=seed, **own)
    else:
        values = ablated(model, reference, kind, names, seed=seed)
    return generic_activation_patch(
        model, tokens, values, metric, patch_setter, activation_name, index_axis_names, index_df,
        **arguments,
    )  # fmt: skip


def _names_of(
    model: Bridge, activation: str, axes: Sequence[str] | None, index_df: Any
) -> list[str]:
    one = {p.name: [1 if n is None else n for n in p.shape] for p in model.hook_points()}
    cells = cells_of(model, activation, axes, index_df, one.__getitem__).cells
    return list(dict.fromkeys(cell.point.name for cell in cells if cell.point is not None))


def _resampled(values: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    n_rows = next(iter(values.values())).shape[0]
    if n_rows < 2:
        raise ArgumentError('"resample" takes other rows of the reference, and it has one')
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(n_rows, generator=rng)
    source = torch.empty_like(order)
    source[order] = order.roll(1)  # one cycle: no row is its own
    return {name: value[source.to(value.device)] for name, value in values.items()}
