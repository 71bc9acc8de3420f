"""The names: short forms as TransformerLens resolves them, the table, and the generated type."""

from __future__ import annotations

import inspect
import typing

import pytest

import bezel
from bezel import _C, hook_names, names
from bezel.cache_values import axes_of, is_batched, layer_of
from bezel.utils import get_act_name
from support import tower_table
from support.hook_table import LAYER_ROWS, MODEL_ROWS, ROWS
from support.lab import Lab
from support.media_fixtures import MEDIA_RECIPES

# What TransformerLens documents for utils.get_act_name, and what its rules make of other forms:
# the first digits are the layer, what follows them the layer type; aliases; names of ln_final.
TRANSFORMER_LENS = {
    ("k", 6, "a"): "blocks.6.attn.hook_k",
    ("pre", 2): "blocks.2.mlp.hook_pre",
    ("embed",): "hook_embed",
    ("normalized", 27, "ln2"): "blocks.27.ln2.hook_normalized",
    ("k6",): "blocks.6.attn.hook_k",
    ("scale4ln1",): "blocks.4.ln1.hook_scale",
    ("pre5",): "blocks.5.mlp.hook_pre",
    # every name of the attention and of the MLP
    ("q", 0): "blocks.0.attn.hook_q",
    ("k", 0): "blocks.0.attn.hook_k",
    ("v", 0): "blocks.0.attn.hook_v",
    ("z", 11): "blocks.11.attn.hook_z",
    ("rot_q", 1): "blocks.1.attn.hook_rot_q",
    ("rot_k", 1): "blocks.1.attn.hook_rot_k",
    ("result", 1): "blocks.1.attn.hook_result",
    ("pattern", 1): "blocks.1.attn.hook_pattern",
    ("attn_scores", 1): "blocks.1.attn.hook_attn_scores",
    ("pre", 1): "blocks.1.mlp.hook_pre",
    ("mid", 1): "blocks.1.mlp.hook_mid",
    ("post", 1): "blocks.1.mlp.hook_post",
    ("pre_linear", 1): "blocks.1.mlp.hook_pre_linear",
    # aliases of names
    ("attn", 3): "blocks.3.attn.hook_pattern",
    ("attn_logits", 3): "blocks.3.attn.hook_attn_scores",
    ("key", 3): "blocks.3.attn.hook_k",
    ("query", 3): "blocks.3.attn.hook_q",
    ("value", 3): "blocks.3.attn.hook_v",
    ("mlp_pre", 3): "blocks.3.mlp.hook_pre",
    ("mlp_mid", 3): "blocks.3.mlp.hook_mid",
    ("mlp_post", 3): "blocks.3.mlp.hook_post",
    # aliases of layer types, and types that a name of the attention or MLP overrules
    ("q", 3, "attention"): "blocks.3.attn.hook_q",
    ("q", 3, "mlp"): "blocks.3.attn.hook_q",
    ("pre", 3, "m"): "blocks.3.mlp.hook_pre",
    ("pre", 3, "attn"): "blocks.3.mlp.hook_pre",
    ("resid_pre", 3, "b"): "blocks.3.hook_resid_pre",
    ("resid_pre", 3, "block"): "blocks.3.hook_resid_pre",
    ("resid_pre", 3, "blocks"): "blocks.3.hook_resid_pre",
    # the block's own names
    ("resid_pre", 0): "blocks.0.hook_resid_pre",
    ("resid_mid", 4): "blocks.4.hook_resid_mid",
    ("resid_post", 11): "blocks.11.hook_resid_post",
    ("attn_out", 2): "blocks.2.hook_attn_out",
    ("mlp_out", 2): "blocks.2.hook_mlp_out",
    ("attn_in", 2): "blocks.2.hook_attn_in",
    ("q_input", 2): "blocks.2.hook_q_input",
    ("mlp_in", 2): "blocks.2.hook_mlp_in",
    # norms
    ("scale", 0, "ln1"): "blocks.0.ln1.hook_scale",
    ("scale", 0, "ln2_post"): "blocks.0.ln2_post.hook_scale",
    ("scale",): "ln_final.hook_scale",
    ("normalized",): "ln_final.hook_normalized",
    ("normalized9ln2",): "blocks.9.ln2.hook_normalized",
    # packed forms
    ("z11",): "blocks.11.attn.hook_z",
    ("k6a",): "blocks.6.attn.hook_k",
    ("attn3",): "blocks.3.attn.hook_pattern",
    # full names come back as they are
    ("blocks.3.attn.hook_z",): "blocks.3.attn.hook_z",
    ("hook_embed",): "hook_embed",
    ("ln_final.hook_scale",): "ln_final.hook_scale",
}  # fmt: skip

# Ours: a row of the table, and names that stand in one component of a block alone.
OURS = {
    ("attn.hook_z", 3): "blocks.3.attn.hook_z",
    ("hook_resid_pre", 3): "blocks.3.hook_resid_pre",
    ("moe.hook_router_probs", 2): "blocks.2.moe.hook_router_probs",
    ("router_probs", 2): "blocks.2.moe.hook_router_probs",
    ("expert_indices", 2): "blocks.2.moe.hook_expert_indices",
    ("expert_pre", 2): "blocks.2.moe.hook_expert_pre",
    ("shared_k", 5): "blocks.5.attn.hook_shared_k",
    ("q_normed", 5): "blocks.5.attn.hook_q_normed",
    ("ple_out", 5): "blocks.5.hook_ple_out",
    ("gate", 5): "blocks.5.ple.hook_gate",
    ("gate", 5, "ple"): "blocks.5.ple.hook_gate",
    ("post", 5, "ple"): "blocks.5.ple.hook_post",
    ("input", 5): "blocks.5.ple.hook_input",
    ("out", 5, "attn"): "blocks.5.attn.hook_out",
    ("out", 5, "mlp"): "blocks.5.mlp.hook_out",
    ("out", 5, "moe"): "blocks.5.moe.hook_out",
    ("logits",): "hook_logits",
    ("full_embed",): "hook_full_embed",
}


@pytest.mark.parametrize("form", TRANSFORMER_LENS, ids=str)
def test_a_short_form_is_what_it_is_in_transformer_lens(form: tuple[object, ...]) -> None:
    assert get_act_name(*form) == TRANSFORMER_LENS[form]


@pytest.mark.parametrize("form", OURS, ids=str)
def test_our_names_have_short_forms_too(form: tuple[object, ...]) -> None:
    assert get_act_name(*form) == OURS[form]


def test_layers_may_be_words() -> None:
    assert get_act_name("z", "3") == "blocks.3.attn.hook_z"


@pytest.mark.parametrize("name", ["e2b", "moe"])
def test_every_full_name_comes_back_and_every_row_takes_a_layer(lab: Lab, name: str) -> None:
    for point in lab.bridge(name).hook_points():
        assert get_act_name(point.name) == point.name
        if point.layer is not None:
            row = point.name.split(".", 2)[2]
            assert get_act_name(row, point.layer) == point.name


def test_the_table_is_the_second_table() -> None:
    text = [row for row in names.TABLE if row.where not in (*names.OF_MEDIA, "conformer")]
    table = {(row.name, row.axes, row.where, row.access == "on_demand") for row in text}
    assert table == {(row.name, row.axes, row.where, row.on_demand) for row in ROWS}
    assert len(text) == len(ROWS)
    assert all(row.doc for row in names.TABLE)
    in_model = {row.name for row in text if not row.in_block}
    assert in_model == {row.name for row in MODEL_ROWS}


def test_the_rows_of_towers_are_those_of_the_second_table() -> None:
    media = {row for row in names.TABLE if row.where in names.OF_MEDIA}
    got = {(row.name, row.axes, row.where) for row in media}
    assert got == tower_table.rows_outside_of_blocks()
    assert len(got) == len(media)
    for part in ("vision", "audio"):
        rows = names.BLOCKS[f"{part}_encoder.blocks."]
        assert {(row.name, row.axes) for row in rows} == tower_table.rows_of_blocks(part)
    assert {row.name for row in names.BLOCKS["blocks."]} == {row.name for row in LAYER_ROWS}


@pytest.mark.parametrize("name", MEDIA_RECIPES)
def test_axes_of_every_full_name_are_known_without_a_model(lab: Lab, name: str) -> None:
    for point in lab.bridge(name).hook_points():
        assert axes_of(point.name) == point.axes, point.name
        assert axes_of(point.name + "_grad") == point.axes
        assert is_batched(point.name) == (point.axes[0] == "batch")
        assert layer_of(point.name) == (None if names.is_of_media(point.name) else point.layer)
    assert axes_of("vision_encoder.blocks.0.ple.hook_gate") is None


def test_the_generated_type_lists_the_rows_of_the_core_in_their_order() -> None:
    rows = [name for name, *_ in _C.hook_table(_C.Part.text)]
    assert list(typing.get_args(hook_names.HookName)) == rows
    assert "Made from hooks/hook_points.h by list_hook_points" in inspect.getsource(hook_names)


def test_the_table_prints_with_axes_places_and_meanings(capsys: pytest.CaptureFixture) -> None:
    bezel.hook_points()
    lines = capsys.readouterr().out.splitlines()
    n_outside = sum(not row.in_block for row in names.TABLE)
    assert len(lines) == n_outside + sum(map(len, names.BLOCKS.values()))
    line = next(line for line in lines if line.startswith("blocks.{i}.attn.hook_result "))
    assert "[batch pos head d_model]" in line
    assert "on demand" in line
    line = next(line for line in lines if line.startswith("vision_encoder.blocks.{i}.attn.hook_z "))
    assert "[image patch head d_head]" in line
    bezel.hook_points("rot_")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "blocks.{i}.attn.hook_rot_q",
        "blocks.{i}.attn.hook_rot_k",
        "vision_encoder.blocks.{i}.attn.hook_rot_q",
        "vision_encoder.blocks.{i}.attn.hook_rot_k",
    ]


def test_hook_points_have_shapes_where_the_model_decides(lab: Lab) -> None:
    points = {point.name: point for point in lab.bridge("e2b").hook_points()}
    z = points["blocks.3.attn.hook_z"]  # a full layer
    assert z.axes == ("batch", "pos", "head", "d_head")
    assert z.shape == (None, None, 4, 16)
    assert (z.access, z.where, z.layer) == ("edit", "block", 3)
    assert points["blocks.2.attn.hook_z"].shape == (None, None, 4, 8)
    assert points["blocks.5.mlp.hook_pre"].shape == (None, None, 64)  # twice as wide: it shares
    assert points["blocks.1.mlp.hook_pre"].shape == (None, None, 32)
    assert points["blocks.5.attn.hook_shared_k"].shape == (None, None, 1, 8)
    assert points["ple.hook_inputs"].shape == (None, None, 8, 12)
    assert points["hook_logits"].layer is None
    assert points["blocks.0.attn.hook_result"].access == "on_demand"


def test_the_tree_shows_every_name_with_its_axes(lab: Lab) -> None:
    for name in ("e2b", "moe"):
        bridge = lab.bridge(name)
        tree = repr(bridge)
        for point in bridge.hook_points():
            last = point.name.split(".")[-1]
            assert last in tree, point.name
        assert "d_model" in tree.splitlines()[0]
