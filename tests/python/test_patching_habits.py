"""A notebook's habits: TransformerLens's names and arguments."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from bezel import patching

# transformer_lens 4.3, transformer_lens.patching; its direct paths are path_patch here.
THEIRS = (
    "attn_head_all_pos_every", "attn_head_by_pos_every", "attn_head_k_all_pos",
    "attn_head_k_by_pos", "attn_head_out_all_pos", "attn_head_out_by_pos",
    "attn_head_pattern_all_pos", "attn_head_pattern_by_pos", "attn_head_pattern_dest_src_pos",
    "attn_head_q_all_pos", "attn_head_q_by_pos", "attn_head_v_all_pos", "attn_head_v_by_pos",
    "attn_out", "block_every", "mlp_out", "resid_mid", "resid_pre",
)  # fmt: skip
SETTERS = (
    "layer_pos", "layer_pos_head_vector", "layer_head_vector", "layer_head_pattern",
    "layer_head_pos_pattern", "layer_head_dest_src_pos_pattern",
)  # fmt: skip
ARGUMENTS = [
    "model", "corrupted_tokens", "clean_cache", "patching_metric", "patch_setter",
    "activation_name", "index_axis_names", "index_df", "return_index_df", "reduce", "baseline",
]  # fmt: skip


def test_their_names_are_here() -> None:
    wanted = [f"get_act_patch_{name}" for name in THEIRS]
    wanted += [f"{name}_patch_setter" for name in SETTERS]
    assert set(wanted) <= set(patching.__all__)
    for name in patching.__all__:
        assert inspect.getdoc(getattr(patching, name)), name


def test_the_generic_sweep_takes_their_arguments_in_their_order() -> None:
    got = list(inspect.signature(patching.generic_activation_patch).parameters)
    assert got[: len(ARGUMENTS)] == ARGUMENTS


def test_their_setters_write_where_theirs_do() -> None:
    clean, old = torch.ones(2, 3, 4, 5), torch.zeros(2, 3, 4, 5)
    places: dict[str, tuple[list[int], tuple[Any, ...]]] = {
        "layer_pos": ([0, 1], (slice(None), 1)),
        "layer_pos_head_vector": ([0, 1, 2], (slice(None), 1, 2)),
        "layer_head_vector": ([0, 2], (slice(None), slice(None), 2)),
        "layer_head_pattern": ([0, 2], (slice(None), 2)),
        "layer_head_pos_pattern": ([0, 2, 3], (slice(None), 2, 3)),
        "layer_head_dest_src_pos_pattern": ([0, 2, 3, 4], (slice(None), 2, 3, 4)),
    }
    for name, (index, place) in places.items():
        want = old.clone()
        want[place] = 1
        got = getattr(patching, f"{name}_patch_setter")(old.clone(), index, clean)
        assert torch.equal(got, want), name
