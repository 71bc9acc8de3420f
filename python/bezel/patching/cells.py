"""Which cells a sweep has, and at which of them there is something to patch."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch

from bezel.errors import ArgumentError, HookNotApplicableError
from bezel.hooks import dtypes_of
from bezel.names import HookPoint, get_act_name, is_of_media
from bezel.selection import selector

if TYPE_CHECKING:
    from bezel.bridge import Bridge

# The words of index axes -> the axes of values that they may mean, the first that the value has.
_MEANINGS = {
    "head": ("head", "kv_head"),
    "head_index": ("head", "kv_head"),
    "pos": ("pos", "q_pos", "k_pos"),
    "dest_pos": ("q_pos", "pos"),
    "src_pos": ("k_pos",),
}
# The shape of a value in the run that is patched.
ShapeOf: TypeAlias = Callable[[str], Sequence[int]]


class Cell(NamedTuple):
    """One patch: where in the result, which index, which value. No point: nothing to patch."""

    row: int
    indices: list[int]
    point: HookPoint | None


class Cells(NamedTuple):
    """All cells of a sweep."""

    cells: list[Cell]
    shape: tuple[int, ...]  # of the result
    axis_names: list[str]  # of the index


def cells_of(
    bridge: Bridge,
    activation_name: str,
    index_axis_names: Sequence[str] | None,
    index_df: Any | None,
    shape_of: ShapeOf,
) -> Cells:
    """The cells of a grid, or of a list. Raises ArgumentError, UnknownHookError, …."""
    if (index_axis_names is None) == (index_df is None):
        raise ArgumentError("give one of index_axis_names and index_df")
    points = {point.name: point for point in bridge.hook_points()}
    n_layers = _n_layers(bridge, points, activation_name)
    if index_axis_names is not None:
        names = list(index_axis_names)
        here = _points_by_layer(bridge, points, activation_name, names)
        shape = tuple(
            n_layers if axis == "layer" else _size(axis, list(here.values()), shape_of)
            for axis in names
        )
        rows = [list(index) for index in itertools.product(*map(range, shape))]
    else:
        names = [str(column) for column in getattr(index_df, "columns", ["layer"])]
        here = _points_by_layer(bridge, points, activation_name, names)
        rows = _rows(index_df)
        shape = (len(rows),)
    cells = []
    for i, index in enumerate(rows):
        layer = index[0] if names[0] == "layer" else None
        if layer is not None and not 0 <= layer < n_layers:
            raise ArgumentError(f"index {index} is of layer {layer}; the model has {n_layers}")
        point = here.get(layer)
        cells.append(Cell(i, index, point if point and _is_in(point, names, index) else None))
    return Cells(cells, shape, names)


def as_frame(cells: Cells) -> Any:
    """The indices as a pandas.DataFrame. Raises ArgumentError without pandas."""
    try:
        pandas = importlib.import_module("pandas")
    except ImportError as error:
        raise ArgumentError("a DataFrame of indices needs pandas: pip install pandas") from error
    return pandas.DataFrame([cell.indices for cell in cells.cells], columns=cells.axis_names)


def _points_by_layer(
    bridge: Bridge, points: dict[str, HookPoint], name: str, axes: list[str]
) -> dict[int | None, HookPoint]:
    n_layers = _n_layers(bridge, points, name)
    layers = range(n_layers) if axes[:1] == ["layer"] else [None]
    full = {layer: _full_name(name, layer) for layer in layers}
    found = {layer: points[full[layer]] for layer in layers if full[layer] in points}
    if not found and ".hook_sae_" in name:
        raise HookNotApplicableError(
            f"{name!r} is a value inside an SAE, and sweeps patch values of the model; call "
            "run_with_hooks once for each patch, with a hook at the feature"
        )
    if not found:
        dtypes_of(bridge._core, selector(next(iter(full.values()))))  # raises, with the reason
        raise ArgumentError(f"{name!r} names no value of this model")
    return found


def _n_layers(bridge: Bridge, points: dict[str, HookPoint], name: str) -> int:
    """Blocks of the text, or of the encoder that the name is of."""
    if not is_of_media(name):
        return bridge.cfg.n_layers
    prefix = name.partition("*")[0]
    blocks = [point.layer for point in points.values() if point.name.startswith(prefix)]
    return 1 + max((layer for layer in blocks if layer is not None), default=0)


def _full_name(name: str, layer: int | None) -> str:
    """Of a short form; in an encoder "*" stands for the number of a block."""
    if not is_of_media(name):
        return get_act_name(name, layer)
    if (layer is not None) != (name.count("*") == 1):
        raise ArgumentError(
            f'{name!r} with the index axis "layer" wants one "*" for it, as in '
            '"vision_encoder.blocks.*.attn.hook_z"; without that axis it wants none'
        )
    return name.replace("*", str(layer))


def _rows(index_df: Any) -> list[list[int]]:
    rows = index_df.to_numpy().tolist() if hasattr(index_df, "to_numpy") else index_df
    if isinstance(rows, torch.Tensor):
        rows = rows.tolist()
    made = [[int(i) for i in row] for row in rows]
    if not made or not all(made):
        raise ArgumentError("index_df is empty; wanted one row of indices for each patch")
    return made


def _dim(axis: str, point: HookPoint) -> int | None:
    for meaning in _MEANINGS.get(axis, (axis,)):
        if meaning in point.axes:
            return point.axes.index(meaning)
    return None


def _size(axis: str, points: list[HookPoint], shape_of: ShapeOf) -> int:
    sizes = []
    for point in points:
        dim = _dim(axis, point)
        if dim is None or point.axes[dim] == "batch":
            raise ArgumentError(
                f'index axis "{axis}" is none of "{point.name}" [{" ".join(point.axes)}]; wanted '
                f'"layer", {", ".join(map(repr, _MEANINGS))} or an axis of the value'
            )
        size = point.shape[dim]
        sizes.append(shape_of(point.name)[dim] if size is None else size)
    return max(sizes)


def _is_in(point: HookPoint, axes: list[str], index: list[int]) -> bool:
    """False where this layer has fewer heads than the index says."""
    for axis, i in zip(axes, index, strict=False):
        dim = None if axis == "layer" else _dim(axis, point)
        size = None if dim is None else point.shape[dim]
        if size is not None and i >= size:
            return False
    return True
