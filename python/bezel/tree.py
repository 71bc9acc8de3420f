"""repr(bridge): the model as a tree of names with their shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby

from bezel import _C
from bezel.names import HookPoint, points_of

_BLOCK = re.compile(r"(.*?blocks\.)\d+\.(.*)")
_OF_TEXT = "blocks."


def text(core: _C.Bridge, name: str) -> str:
    """The tree; blocks that are alike share a branch."""
    lines = [_headline(core, name)]
    for prefix, members in groupby(points_of(core), key=lambda point: _divided(point.name)[0]):
        if not prefix:
            lines += [f"├─ {_line(point.name, point)}" for point in members]
            continue
        for layers, block in _alike(members):
            lines.append(f"├─ {_blocks_title(core.spec, prefix, layers)}")
            rows = [_line(_divided(point.name)[1], point) for point in block]
            lines += [f"│  ├─ {row}" for row in rows[:-1]]
            lines.append(f"│  └─ {rows[-1]}")
    lines[-1] = lines[-1].replace("├", "└")
    return "\n".join(lines)


def _divided(name: str) -> tuple[str, str]:
    """("vision_encoder.blocks.", "attn.hook_z"); ("", the name) outside of blocks."""
    found = _BLOCK.fullmatch(name)
    return (found[1], found[2]) if found else ("", name)


def _headline(core: _C.Bridge, name: str) -> str:
    cfg = core.spec
    parts = [
        f"{cfg.n_layers} blocks",
        f"d_model {cfg.d_model}",
        f"{cfg.n_heads} heads",
        f"vocabulary {cfg.d_vocab:,}",
        f"{core.n_parameters:,} parameters",
        f"{str(core.dtype).removeprefix('torch.')} on {core.device}",
    ]
    return f"Bridge({name}: {cfg.family}, {', '.join(parts)})"


def _line(name: str, point: HookPoint) -> str:
    sizes = zip(point.axes, point.shape, strict=True)
    shape = " ".join(axis if size is None else f"{axis}={size}" for axis, size in sizes)
    mark = "  (on demand)" if point.access == "on_demand" else ""
    return f"{name:<32} [{shape.replace('1=1', '1')}]{mark}"


def _alike(blocks: Iterable[HookPoint]) -> list[tuple[list[int], list[HookPoint]]]:
    """Blocks with the same names and shapes, in the order of their first."""
    groups: dict[tuple[tuple[str, tuple[int | None, ...]], ...], list[list[HookPoint]]] = {}
    for _, members in groupby(blocks, key=lambda point: point.layer):
        block = list(members)
        key = tuple((_divided(point.name)[1], point.shape) for point in block)
        groups.setdefault(key, []).append(block)
    return [
        ([block[0].layer for block in alike if block[0].layer is not None], alike[0])
        for alike in groups.values()
    ]


def _blocks_title(cfg: _C.ModelSpec, prefix: str, layers: list[int]) -> str:
    facts = _facts(cfg, layers) if prefix == _OF_TEXT else []
    title = f"{prefix}{{{_ranges(layers)}}}." if len(layers) > 1 else f"{prefix}{layers[0]}."
    return f"{title}  {'; '.join(facts)}" if facts else title


def _facts(cfg: _C.ModelSpec, layers: list[int]) -> list[str]:
    """What blocks of the text that are alike have together."""
    facts = []
    windows = [cfg.layers[i].attention.window_tokens for i in layers]
    sliding = {window for window in windows if window is not None}
    if not sliding:
        facts.append("full attention")
    elif None not in windows:
        facts.append(f"sliding attention over {', '.join(map(str, sorted(sliding)))} tokens")
    if cfg.layers[layers[0]].attention.k_is_v:
        facts.append("values from the key projection")
    sources = [cfg.layers[i].attention.donor for i in layers]
    donors = {donor for donor in sources if donor is not None}
    if donors:
        facts.append(f"keys and values of block {', '.join(map(str, sorted(donors)))}")
    moe = cfg.layers[layers[0]].moe
    if moe is not None:
        facts.append(f"{moe.n_experts} experts, {moe.n_chosen} chosen")
    return facts


def _ranges(layers: list[int]) -> str:
    """[0, 1, 2, 5] → "0-2, 5"."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
