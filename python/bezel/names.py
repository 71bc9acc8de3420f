"""The hook points as Python sees them, and TransformerLens's short forms of their names."""

from __future__ import annotations

import re
from typing import NamedTuple

from bezel import _C


class HookPoint(NamedTuple):
    """One named value of one model.

    Example:
        >>> point = next(p for p in b.hook_points() if p.name == "blocks.3.attn.hook_z")
        >>> point.axes, point.shape
        (('batch', 'pos', 'head', 'd_head'), (None, None, 4, 32))
    """

    name: str
    axes: tuple[str, ...]
    shape: tuple[int | None, ...]  # None where the input decides
    access: str  # "edit", or "on_demand": editable too, but cached only when named
    where: str  # a word of hooks/hook_points.h: model, vision, audio, block, layer, moe, ple …
    doc: str
    layer: int | None


def points_of(core: _C.Bridge) -> list[HookPoint]:
    """Every named value of a model, in the order in which a run computes them."""
    return [
        HookPoint(name, tuple(axes), tuple(shape), access, where, doc, layer)
        for name, axes, shape, access, where, doc, layer in core.hook_points()
    ]


# Where the rows of encoders and projectors stand that are outside of blocks.
OF_MEDIA = ("vision", "vision_embedder", "vision_projector", "audio", "audio_projector")
_OUTSIDE_BLOCKS = frozenset(("model", "model_ple", *OF_MEDIA))


class TableRow(NamedTuple):
    """One row of the table: a value of every model, or of every block that `where` fits."""

    name: str  # without "blocks.3."
    axes: tuple[str, ...]
    where: str
    access: str
    doc: str

    @property
    def in_block(self) -> bool:
        """True when the full name begins with "blocks.3."."""
        return self.where not in _OUTSIDE_BLOCKS


def is_of_media(name: str) -> bool:
    """True for the full name of a value in the encoders of images and sound."""
    return name.startswith(("vision_", "audio_"))


def _rows(part: _C.Part) -> tuple[TableRow, ...]:
    return tuple(
        TableRow(name, tuple(axes), where, access, doc)
        for name, axes, where, access, doc in _C.hook_table(part)
    )


TABLE = _rows(_C.Part.text)
# How the full name of a value in a block begins, and what such blocks can have.
BLOCKS = {
    "blocks.": tuple(row for row in TABLE if row.in_block and row.where != "conformer"),
    "vision_encoder.blocks.": _rows(_C.Part.vision),
    "audio_encoder.blocks.": _rows(_C.Part.audio),
}
_BLOCK_ROWS = frozenset(row.name for row in BLOCKS["blocks."])

# TransformerLens's short forms (transformer_lens/utils, get_act_name).
_LAYER_TYPES = {"a": "attn", "m": "mlp", "b": "", "block": "", "blocks": "", "attention": "attn"}
_OTHER_NAMES = {
    "attn": "pattern",
    "attn_logits": "attn_scores",
    "key": "k",
    "query": "q",
    "value": "v",
    "mlp_pre": "pre",
    "mlp_mid": "mid",
    "mlp_post": "post",
}
_IN_ATTENTION = frozenset(
    ("k", "v", "q", "z", "rot_k", "rot_q", "result", "pattern", "attn_scores")
)
_IN_MLP = frozenset(("pre", "post", "mid", "pre_linear"))
_OF_NORMS = frozenset(("scale", "normalized"))


def get_act_name(name: str, layer: int | str | None = None, layer_type: str | None = None) -> str:
    """The full name of a short form, resolved as TransformerLens resolves it.

    Args:
        name: "z", "resid_post", "scale", "k6", "scale4ln1" …, or a row of the table such as
            "attn.hook_z" or "moe.hook_router_probs".
        layer: The block; None for a value of the model.
        layer_type: "attn" or "a", "mlp" or "m", "ln1", "ln2", "ple" …; needed where the name alone
            does not say it.

    Returns:
        For example "blocks.3.attn.hook_z".

    Example:
        >>> get_act_name("z", 3)
        'blocks.3.attn.hook_z'
    """
    if ("." in name or name.startswith("hook_")) and layer is None and layer_type is None:
        return name
    if layer is not None and layer_type is None and name in _BLOCK_ROWS:
        return f"blocks.{layer}.{name}"
    packed = re.match(r"([a-z]+)(\d+)([a-z]?.*)", name)
    if packed:
        name, layer, layer_type = packed[1], packed[2], packed[3]
    name = _OTHER_NAMES.get(name, name)
    if name in _IN_ATTENTION:
        layer_type = "attn"
    elif name in _IN_MLP and layer_type not in ("ple", "moe"):
        layer_type = "mlp"
    elif layer_type in _LAYER_TYPES:
        layer_type = _LAYER_TYPES[layer_type]
    if not layer_type and layer is not None:
        layer_type = _component_of(name)
    parts = [f"blocks.{layer}"] if layer is not None else []
    if name in _OF_NORMS and layer is None:
        parts.append("ln_final")
    if layer_type:
        parts.append(layer_type)
    return ".".join([*parts, f"hook_{name}"])


def _component_of(name: str) -> str | None:
    """Ours: "router_probs" is in moe, "rot_k" in attn; None where the block itself has it."""
    rows = [row for row in _BLOCK_ROWS if row.rpartition(".")[2] == f"hook_{name}"]
    if len(rows) == 1:
        return rows[0].rpartition(".")[0]
    return None


def table_text(like: str = "") -> str:
    """The table of names as text, one line for each name that contains `like`."""
    named = [(row.name, row) for row in TABLE if not row.in_block]
    for prefix, rows in BLOCKS.items():
        named += [(f"{prefix}{{i}}.{row.name}", row) for row in rows]
    named = [(name, row) for name, row in named if like in name]
    width = max((len(name) for name, _ in named), default=0)
    lines = []
    for name, row in named:
        mark = "on demand" if row.access == "on_demand" else ""
        axes = f"[{' '.join(row.axes)}]"
        lines.append(f"{name:<{width}}  {axes:<38} {row.where:<16} {mark:<10} {row.doc}")
    return "\n".join(lines)


def hook_points(like: str = "") -> None:
    """Prints the table of names, "{i}" for the number of a block; `like` keeps those with it.

    Example:
        >>> bezel.hook_points("hook_unembed")  # doctest: +NORMALIZE_WHITESPACE
        hook_unembed [batch pos d_vocab] model logits before the final softcap
    """
    print(table_text(like))
