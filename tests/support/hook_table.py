"""The text hook points as a second, independent table: what must exist, with which axes.

"block" and "block_kv" stand in the blocks of every part, "layer" and "own_kv" in those of text and
vision; tower_table has what the towers have.

The library has its own table in C++; the tests compare the two, so a row that is lost or whose
axes drift there is noticed here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

# name | axes | where | D: cached only when named
TABLE = """
hook_tokens                 | batch pos                  | model
hook_embed                  | batch pos d_model          | model
hook_full_embed             | batch pos d_model          | model
ple.hook_token              | batch pos layer d_ple      | model_ple
ple.hook_context            | batch pos layer d_ple      | model_ple
ple.hook_inputs             | batch pos layer d_ple      | model_ple
hook_resid_pre              | batch pos d_model          | block
hook_attn_in                | batch pos d_model          | layer     | D
hook_q_input                | batch pos head d_model     | layer     | D
hook_k_input                | batch pos kv_head d_model  | own_kv    | D
hook_v_input                | batch pos kv_head d_model  | own_kv    | D
ln1.hook_scale              | batch pos 1                | layer
ln1.hook_normalized         | batch pos d_model          | layer
attn.hook_q                 | batch pos head d_head      | block
attn.hook_q_normed          | batch pos head d_head      | layer
attn.hook_rot_q             | batch pos head d_head      | layer
attn.hook_k                 | batch pos kv_head d_head   | block_kv
attn.hook_v                 | batch pos kv_head d_head   | block_kv
attn.hook_k_normed          | batch pos kv_head d_head   | own_kv
attn.hook_v_normed          | batch pos kv_head d_head   | own_kv
attn.hook_rot_k             | batch pos kv_head d_head   | own_kv
attn.hook_shared_k          | batch k_pos kv_head d_head | shared_kv
attn.hook_shared_v          | batch k_pos kv_head d_head | shared_kv
attn.hook_attn_scores       | batch head q_pos k_pos     | block
attn.hook_pattern           | batch head q_pos k_pos     | block
attn.hook_z                 | batch pos head d_head      | block
attn.hook_result            | batch pos head d_model     | layer     | D
attn.hook_out               | batch pos d_model          | layer
ln1_post.hook_scale         | batch pos 1                | layer
ln1_post.hook_normalized    | batch pos d_model          | layer
hook_attn_out               | batch pos d_model          | block
hook_resid_mid              | batch pos d_model          | layer
hook_mlp_in                 | batch pos d_model          | layer     | D
ln2.hook_scale              | batch pos 1                | layer
ln2.hook_normalized         | batch pos d_model          | layer
mlp.hook_pre                | batch pos d_mlp            | layer
mlp.hook_pre_linear         | batch pos d_mlp            | layer
mlp.hook_post               | batch pos d_mlp            | layer
mlp.hook_out                | batch pos d_model          | layer
ln2_dense_post.hook_scale      | batch pos 1             | moe
ln2_dense_post.hook_normalized | batch pos d_model       | moe
moe.hook_router_logits      | batch pos expert           | moe
moe.hook_router_probs       | batch pos expert           | moe
moe.hook_expert_indices     | batch pos k                | moe
moe.hook_expert_weights     | batch pos k                | moe
ln2_moe.hook_scale          | batch pos 1                | moe
ln2_moe.hook_normalized     | batch pos d_model          | moe
moe.hook_expert_pre         | batch pos k d_expert       | moe       | D
moe.hook_expert_pre_linear  | batch pos k d_expert       | moe       | D
moe.hook_expert_post        | batch pos k d_expert       | moe       | D
moe.hook_expert_out         | batch pos k d_model        | moe       | D
moe.hook_out                | batch pos d_model          | moe
ln2_moe_post.hook_scale     | batch pos 1                | moe
ln2_moe_post.hook_normalized | batch pos d_model         | moe
ln2_post.hook_scale         | batch pos 1                | layer
ln2_post.hook_normalized    | batch pos d_model          | layer
hook_mlp_out                | batch pos d_model          | layer
ple.hook_gate               | batch pos d_ple            | ple
ple.hook_input              | batch pos d_ple            | ple
ple.hook_post               | batch pos d_ple            | ple
ple_post.hook_scale         | batch pos 1                | ple
ple_post.hook_normalized    | batch pos d_model          | ple
hook_ple_out                | batch pos d_model          | ple
hook_resid_post             | batch pos d_model          | block
ln_final.hook_scale         | batch pos 1                | model
ln_final.hook_normalized    | batch pos d_model          | model
hook_unembed                | batch pos d_vocab          | model
hook_logits                 | batch pos d_vocab          | model
"""


@dataclass(frozen=True)
class Row:
    name: str  # as in the table: without "blocks.3."
    axes: tuple[str, ...]
    where: str
    on_demand: bool


@dataclass(frozen=True)
class Point:
    """One name of one model: a row, in the layer where it exists."""

    name: str
    axes: tuple[str, ...]
    layer: int | None
    on_demand: bool


P = TypeVar("P", bound=Any)


def _parse(line: str) -> Row:
    name, axes, where, *rest = [cell.strip() for cell in line.split("|")]
    return Row(name, tuple(axes.split()), where, rest == ["D"])


ROWS = tuple(_parse(line) for line in TABLE.strip().splitlines())
MODEL_ROWS = tuple(row for row in ROWS if row.where in ("model", "model_ple"))
LAYER_ROWS = tuple(row for row in ROWS if row not in MODEL_ROWS)


def of_text(points: Iterable[P]) -> list[P]:
    """Those that a run of token ids alone computes."""
    return [point for point in points if not point.name.startswith(("vision_", "audio_"))]


def places(text_config: Any, layer: int) -> set[str]:
    """The words of the column "where" that hold in this layer, read from the model's config."""
    first_shared = text_config.num_hidden_layers - text_config.num_kv_shared_layers
    words = {"block", "layer"}
    words |= {"shared_kv"} if layer >= first_shared else {"block_kv", "own_kv"}
    if getattr(text_config, "enable_moe_block", False):
        words.add("moe")
    if getattr(text_config, "hidden_size_per_layer_input", 0):
        words.add("ple")
    return words


def hook_points_of(text_config: Any) -> list[Point]:
    """Every name that exists in a model of this config; model rows first, then layer by layer."""
    has_ple = bool(getattr(text_config, "hidden_size_per_layer_input", 0))
    points = [
        Point(row.name, row.axes, None, row.on_demand)
        for row in MODEL_ROWS
        if row.where == "model" or has_ple
    ]
    for layer in range(text_config.num_hidden_layers):
        here = places(text_config, layer)
        points += [
            Point(f"blocks.{layer}.{row.name}", row.axes, layer, row.on_demand)
            for row in LAYER_ROWS
            if row.where in here
        ]
    return points
