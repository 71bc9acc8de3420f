"""A patched path is what the change of the stream makes of one reader, with the rest held."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bezel.errors import ArgumentError
from support.direct_paths import DirectPaths, added, close, put
from support.lab import Lab

EXACT = 1e-10
OWN_KEYS = ("hook_k_input", "hook_v_input", "attn.hook_k", "attn.hook_v", "attn.hook_k_normed",
            "attn.hook_v_normed", "attn.hook_rot_k")  # fmt: skip


def float64(lab: Lab, name: str) -> Any:
    return lab.bridge(name, path="open", dtype=torch.float64)


@pytest.fixture
def paths(lab: Lab) -> DirectPaths:
    return DirectPaths(float64(lab, "e2b"))  # 4, 5, 6 share with 2; 7 with 3


def test_a_path_into_one_head_is_the_stream_with_its_scalars(paths: DirectPaths) -> None:
    z = paths.corrupted["blocks.1.attn.hook_z"].clone()
    z[:, :, 2] = paths.clean["blocks.1.attn.hook_z"][:, :, 2]
    change = paths.change("blocks.1.hook_attn_out", [("blocks.1.attn.hook_z", put(z))])
    before = [("blocks.3.hook_attn_in", added(paths.arriving(change, 1, 3)))]
    q = paths.corrupted["blocks.3.attn.hook_q"].clone()
    q[:, :, 1] = paths.read("blocks.3.attn.hook_q", before)[:, :, 1]
    want = paths.measure(("blocks.3.attn.hook_q", put(q)))
    got = paths.got(("blocks.1.attn.hook_z", 2), ("blocks.3.attn.hook_q", 1))
    assert close(got, want, EXACT)
    assert not close(want, paths.measure(), 1e-6)


def test_a_sharing_layer_hears_a_sender_by_its_queries_and_by_its_donor(paths: DirectPaths) -> None:
    sender, z = "blocks.1.hook_mlp_out", "blocks.5.attn.hook_z"
    change = paths.clean[sender] - paths.corrupted[sender]
    donor = [("blocks.2.hook_attn_in", added(paths.arriving(change, 1, 2)))]
    hooks = [("blocks.5.hook_attn_in", added(paths.arriving(change, 1, 5)))]
    only_queries = paths.read(z, hooks)
    for shared, own in (("shared_k", "rot_k"), ("shared_v", "v_normed")):
        value = paths.read(f"blocks.2.attn.hook_{own}", donor)
        hooks.append((f"blocks.5.attn.hook_{shared}", put(value)))
    want = paths.measure((z, put(paths.read(z, hooks))))
    assert close(paths.got(sender, z), want, EXACT)
    assert not close(want, paths.measure((z, put(only_queries))), 1e-6)


def test_the_embeddings_reach_the_end_by_the_stream_alone(paths: DirectPaths) -> None:
    """The way over per-layer inputs is one of its own, by name."""
    name, last = "hook_full_embed", "blocks.7.hook_resid_post"
    change = paths.clean[name] - paths.corrupted[name]
    want = paths.measure((last, added(paths.arriving(change, 0, 8))))
    assert close(paths.got(name, last), want, EXACT)
    inputs = paths.read("ple.hook_inputs", [(name, put(paths.clean[name]))])
    want = paths.measure(("ple.hook_inputs", put(inputs)))
    assert close(paths.got(name, "ple.hook_inputs"), want, EXACT)


def test_one_receiver_tells_no_other_what_it_heard(paths: DirectPaths) -> None:
    sender, early, late = "blocks.1.hook_attn_out", "blocks.3.hook_mlp_out", "blocks.5.attn.hook_q"
    change = paths.clean[sender] - paths.corrupted[sender]
    hooks = []
    for name, before, block in (
        (early, "blocks.3.hook_mlp_in", 3),
        (late, "blocks.5.hook_attn_in", 5),
    ):
        arriving = paths.arriving(change, 1, block)
        hooks.append((name, put(paths.read(name, [(before, added(arriving))]))))
    assert close(paths.got(sender, [early, late]), paths.measure(*hooks), EXACT)


@pytest.mark.parametrize("row", OWN_KEYS)
def test_what_becomes_a_donors_keys_or_values_reaches_every_sharer_directly(
    paths: DirectPaths, row: str
) -> None:
    name, last = f"blocks.2.{row}", "blocks.7.hook_resid_post"
    sent = [(name, put(paths.clean[name]))]
    total = paths.arriving(paths.change("blocks.2.hook_attn_out", sent), 2, 8)
    heard = {
        "shared_k": put(paths.read("blocks.2.attn.hook_rot_k", sent)),
        "shared_v": put(paths.read("blocks.2.attn.hook_v_normed", sent)),
    }
    for layer in (4, 5, 6):
        hooks = [(f"blocks.{layer}.attn.hook_{at}", hook) for at, hook in heard.items()]
        change = paths.change(f"blocks.{layer}.hook_attn_out", hooks)
        total += paths.arriving(change, layer, 8)
    assert close(paths.got(name, last), paths.measure((last, added(total))), EXACT)


@pytest.mark.parametrize("row", ["hook_token", "hook_context", "hook_inputs"])
def test_parts_of_the_per_layer_inputs_reach_the_end_through_every_block(
    paths: DirectPaths, row: str
) -> None:
    name, last = f"ple.{row}", "blocks.7.hook_resid_post"
    inputs = paths.read("ple.hook_inputs", [(name, put(paths.clean[name]))])
    total = torch.zeros_like(paths.corrupted[last])
    for i in range(8):
        hooks = [(f"blocks.{i}.ple.hook_input", put(inputs[:, :, i]))]
        total += paths.arriving(paths.change(f"blocks.{i}.hook_ple_out", hooks), i, 8)
    assert close(paths.got(name, last), paths.measure((last, added(total))), EXACT)


INSIDE = {
    "hook_attn_out": ("hook_attn_in", "hook_q_input", "ln1.hook_scale", "attn.hook_q",
                      "ln1_post.hook_normalized", "hook_attn_out"),
    "hook_mlp_out": ("hook_mlp_in", "ln2.hook_normalized", "mlp.hook_post", "ln2_post.hook_scale",
                     "hook_mlp_out"),
    "hook_ple_out": ("ple.hook_gate", "ple.hook_input", "ple_post.hook_normalized",
                     "hook_ple_out"),
}  # fmt: skip


@pytest.mark.parametrize("output", INSIDE)
def test_a_value_inside_a_branch_reaches_the_end_by_the_output_of_its_branch_alone(
    paths: DirectPaths, output: str
) -> None:
    last = "blocks.7.hook_resid_post"
    for row in INSIDE[output]:
        name = f"blocks.1.{row}"
        change = paths.change(f"blocks.1.{output}", [(name, put(paths.clean[name]))])
        want = paths.measure((last, added(paths.arriving(change, 1, 8))))
        assert close(paths.got(name, last), want, EXACT), row
        assert not close(want, paths.measure(), 1e-9), row


@pytest.mark.parametrize("row", ["moe.hook_out", "moe.hook_router_probs", "ln2_moe.hook_scale"])
def test_experts_are_inside_the_branch_of_the_mlp(lab: Lab, row: str) -> None:
    paths = DirectPaths(float64(lab, "moe"))
    name, last = f"blocks.1.{row}", "blocks.5.hook_resid_post"
    change = paths.change("blocks.1.hook_mlp_out", [(name, put(paths.clean[name]))])
    want = paths.measure((last, added(paths.arriving(change, 1, 6))))
    assert close(paths.got(name, last), want, EXACT)
    assert not close(want, paths.measure(), 1e-9)


def test_with_nothing_frozen_a_receiver_hears_all_that_the_sender_does(paths: DirectPaths) -> None:
    sender, receiver = "blocks.1.hook_attn_out", "blocks.5.attn.hook_z"
    heard = paths.read(receiver, [(sender, put(paths.clean[sender]))])
    want = paths.measure((receiver, put(heard)))
    assert close(paths.got(sender, receiver, freeze=[]), want, EXACT)
    assert not close(paths.got(sender, receiver), want, 1e-6)
    held = ["blocks.2.hook_mlp_out", "blocks.3.hook_attn_out"]
    hooks = [(name, put(paths.corrupted[name])) for name in held]
    heard = paths.read(receiver, [(sender, put(paths.clean[sender])), *hooks])
    want = paths.measure((receiver, put(heard)))
    assert close(paths.got(sender, receiver, freeze=held), want, EXACT)


def test_receivers_are_one_place_or_several_in_any_sequence(paths: DirectPaths) -> None:
    sender, late = "blocks.1.hook_attn_out", "blocks.5.attn.hook_q"
    names = ("blocks.3.hook_mlp_out", late)
    assert paths.got(sender, names) == paths.got(sender, list(names))
    assert paths.got(sender, [late]) == paths.got(sender, late)
    heads = [(late, head) for head in range(4)]
    assert close(paths.got(sender, heads), paths.got(sender, late), EXACT)
    assert paths.got(sender, (late, 2)) == paths.got(sender, [(late, 2)])
    assert not close(paths.got(sender, heads[2:]), paths.got(sender, late), 1e-9)


def test_receivers_before_the_sender_and_heads_that_are_none_are_refused(
    paths: DirectPaths,
) -> None:
    with pytest.raises(ArgumentError, match="not behind"):
        paths.got("blocks.3.attn.hook_z", "blocks.3.attn.hook_q")
    with pytest.raises(ArgumentError, match="not behind"):
        paths.got("blocks.3.attn.hook_z", "blocks.3.attn.hook_z")
    with pytest.raises(ArgumentError, match="no head -1; it has 4"):
        paths.got("blocks.1.hook_attn_out", [("blocks.3.attn.hook_z", -1)])
    with pytest.raises(ArgumentError, match="no head 4; it has 4"):
        paths.got(("blocks.3.attn.hook_z", 4), "hook_logits")
    with pytest.raises(ArgumentError, match="no head 0; it has none"):
        paths.got(("blocks.3.hook_attn_out", 0), "hook_logits")
