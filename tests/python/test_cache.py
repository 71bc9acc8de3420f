"""What run_with_cache keeps: copies of its own, the positions, dtype and device asked for."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

import bezel
from bezel.errors import ArgumentError, CacheTooLargeError, UnknownHookError
from support import fixtures
from support.hook_table import of_text
from support.lab import Lab

LENGTH = 9
TOKENS = fixtures.tokens(LENGTH)
POSITION_AXES = ("pos", "q_pos")


@pytest.fixture(scope="module", params=["automatic", "open"])
def bridge(lab: Lab, request: pytest.FixtureRequest) -> Any:
    return lab.bridge("e2b", path=request.param)


@pytest.fixture(scope="module")
def points(bridge: Any) -> list[bezel.HookPoint]:
    return [point for point in of_text(bridge.hook_points()) if point.access == "edit"]


# --- copies --------------------------------------------------------------------------------------


def bytes_held(cache: Any) -> int:
    storages = [value.untyped_storage() for value in cache.values()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.parametrize("name", ["e2b", "moe", "twelve_b"])
def test_values_are_detached_and_hold_no_more_memory_than_they_show(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name)
    for names in (lab.names(name), None, "blocks.*.attn.hook_q", ["hook_logits"]):
        _, cache = bridge.run_with_cache(TOKENS, names)
        assert bytes_held(cache) == bridge.plan(tuple(TOKENS.shape), names).cache_bytes
        for key, value in cache.items():
            assert not value.requires_grad, key
            assert value.stride(-1) == 1 or value.shape[-1] == 1, key


def test_two_names_of_one_value_share_a_copy(bridge: Any) -> None:
    _, cache = bridge.run_with_cache(TOKENS)
    for layer in range(7):
        out, into = cache["resid_post", layer], cache["resid_pre", layer + 1]
        assert out.data_ptr() == into.data_ptr()
    assert cache["blocks.2.attn.hook_rot_k"].data_ptr() == (
        cache["blocks.4.attn.hook_shared_k"].data_ptr()
    )


def test_other_names_share_nothing(bridge: Any) -> None:
    """Writing into one value of the cache changes no value of another kind."""
    same = (
        {"hook_resid_post", "hook_resid_pre", "hook_embed", "hook_full_embed"},
        {"attn.hook_rot_k", "attn.hook_shared_k"},
        {"attn.hook_v_normed", "attn.hook_shared_v"},
        {"ple.hook_inputs", "ple.hook_input"},  # a slice of it
    )
    owners: dict[int, set[str]] = {}
    for key, value in bridge.run_with_cache(TOKENS)[1].items():
        row = key.split(".", 2)[-1] if key.startswith("blocks") else key
        owners.setdefault(value.data_ptr(), set()).add(row)
    for rows in owners.values():
        assert len(rows) == 1 or any(rows <= group for group in same), rows


def test_the_cache_outlives_the_run_and_the_bridge(lab: Lab) -> None:
    bridge = bezel.Bridge.from_pretrained(lab.folder("e2b"))
    _, cache = bridge.run_with_cache(TOKENS)
    copies = {name: value.clone() for name, value in cache.items()}
    bridge(fixtures.tokens(LENGTH, seed=3))
    del bridge
    gc.collect()
    assert all(torch.equal(cache[name], value) for name, value in copies.items())


def test_what_comes_back_does_not_share_memory_with_the_cache(bridge: Any) -> None:
    logits, cache = bridge.run_with_cache(TOKENS, "hook_logits")
    stream, early = bridge.run_with_cache(TOKENS, None, stop_at_layer=3)
    want = cache["hook_logits"].clone(), early["resid_post", 2].clone()
    logits.zero_()
    stream.zero_()
    assert torch.equal(cache["hook_logits"], want[0])
    assert torch.equal(early["resid_post", 2], want[1])


def test_the_callers_tensors_do_not_share_memory_with_the_cache(bridge: Any) -> None:
    tokens = TOKENS.clone()
    _, cache = bridge.run_with_cache(tokens)
    embeddings = cache["hook_embed"].clone()
    state = {"ple.hook_inputs": cache["ple.hook_inputs"].clone()}
    state |= {f"blocks.{i}.attn.hook_{x}": cache[f"blocks.{i}.attn.hook_{x}"].clone()
              for i in (2, 3) for x in ("rot_k", "v_normed")}  # fmt: skip
    stream = cache["resid_pre", 4].clone()
    _, second = bridge.run_with_cache(embeddings, tokens=tokens)
    _, third = bridge.run_with_cache(stream, start_at_layer=4, start_state=state)
    caches = [cache, second, third]
    want = [{name: value.clone() for name, value in one.items()} for one in caches]
    for given in (tokens, embeddings, stream, *state.values()):
        given.zero_()
    for got, values in zip(caches, want, strict=True):
        for name, value in values.items():
            assert torch.equal(got[name], value), name


def test_a_tensor_that_a_hook_returns_or_keeps_does_not_share_memory_with_the_cache(
    bridge: Any,
) -> None:
    z, mid = "blocks.3.attn.hook_z", "blocks.3.hook_resid_mid"
    _, plain = bridge.run_with_cache(TOKENS, [z, mid])
    patch, given = plain[z].clone(), []
    hooks = [(z, lambda value, hook: patch), (mid, lambda value, hook: given.append(value))]
    logits, cache = bridge.run_with_cache(TOKENS, [z, mid], fwd_hooks=hooks)
    patch.zero_()
    given[0].zero_()
    assert torch.equal(cache[z], plain[z])
    torch.testing.assert_close(cache[mid], plain[mid])
    torch.testing.assert_close(logits, bridge(TOKENS))


# --- positions, dtype, device, batch -------------------------------------------------------------

SLICES = {
    "an index": (3, slice(3, 4)),
    "the last": (-1, slice(-1, None)),
    "another from the end": (-4, slice(-4, -3)),
    "a slice": (slice(2, 7), slice(2, 7)),
    "a slice with a step": (slice(1, None, 3), slice(1, None, 3)),
    "a slice from the end": (slice(-3, None), slice(-3, None)),
    "a pair": ((2, 5), slice(2, 5)),
    "a triple": ((0, 8, 2), slice(0, 8, 2)),
    "everything": (slice(None), slice(None)),
}


@pytest.mark.parametrize("kind", SLICES)
def test_pos_slice_cuts_pos_and_q_pos_and_never_k_pos(
    bridge: Any, points: list[bezel.HookPoint], kind: str
) -> None:
    given, cut = SLICES[kind]
    _, whole = bridge.run_with_cache(TOKENS)
    _, cache = bridge.run_with_cache(TOKENS, pos_slice=given)
    assert list(cache) == list(whole)
    for point in points:
        index = tuple(cut if axis in POSITION_AXES else slice(None) for axis in point.axes)
        assert torch.equal(cache[point.name], whole[point.name][index]), point.name
        assert cache[point.name].untyped_storage().nbytes() == cache[point.name].nbytes


@pytest.mark.parametrize("given", [slice(5, 2), slice(9, None), slice(None, None, -1), (4, 4)])
def test_a_pos_slice_that_keeps_nothing_is_refused(bridge: Any, given: Any) -> None:
    with pytest.raises(ArgumentError, match="pos_slice"):
        bridge.run_with_cache(TOKENS, pos_slice=given)


@pytest.mark.parametrize("given", [LENGTH, -LENGTH - 1])
def test_an_index_beyond_the_positions_is_refused(bridge: Any, given: int) -> None:
    with pytest.raises(ArgumentError, match="pos_slice"):
        bridge.run_with_cache(TOKENS, pos_slice=given)


@pytest.mark.parametrize("given", ["3", 2.0, [1, 2], (1,)])
def test_a_pos_slice_of_another_kind_is_refused(bridge: Any, given: Any) -> None:
    with pytest.raises(ArgumentError, match="pos_slice"):
        bridge.run_with_cache(TOKENS, pos_slice=given)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtype_is_taken_by_floats_and_not_by_integers(lab: Lab, dtype: torch.dtype) -> None:
    bridge = lab.bridge("moe")
    _, whole = bridge.run_with_cache(TOKENS)
    _, cache = bridge.run_with_cache(TOKENS, dtype=dtype)
    integers = [name for name, value in whole.items() if not value.is_floating_point()]
    assert integers == ["hook_tokens", *(f"blocks.{i}.moe.hook_expert_indices" for i in range(6))]
    for name, value in whole.items():
        assert torch.equal(cache[name], value if name in integers else value.to(dtype)), name


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, "float32", float])
def test_a_dtype_that_floats_cannot_take_is_refused(bridge: Any, dtype: Any) -> None:
    with pytest.raises(ArgumentError, match="floating"):
        bridge.run_with_cache(TOKENS, dtype=dtype)


def test_device_is_where_values_are_kept(bridge: Any) -> None:
    _, cache = bridge.run_with_cache(TOKENS, device="cpu")
    assert {value.device.type for value in cache.values()} == {"cpu"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there_is_refused(bridge: Any, lab: Lab) -> None:
    with pytest.raises(ArgumentError, match="cuda"):
        bridge.run_with_cache(TOKENS, device="cuda")
    with pytest.raises(ArgumentError, match="cuda"):
        bezel.Bridge.from_pretrained(lab.folder("e2b"), device="cuda:0")


def test_remove_batch_dim_drops_the_axis_of_a_batch_of_one(bridge: Any) -> None:
    _, whole = bridge.run_with_cache(TOKENS[:1])
    _, cache = bridge.run_with_cache(TOKENS[:1], remove_batch_dim=True)
    assert (whole.has_batch_dim, cache.has_batch_dim) == (True, False)
    assert list(cache) == list(whole)
    assert all(torch.equal(cache[name], value[0]) for name, value in whole.items())
    assert torch.equal(whole.remove_batch_dim()["hook_embed"], cache["hook_embed"])


def test_remove_batch_dim_of_a_larger_batch_is_refused(bridge: Any) -> None:
    with pytest.raises(ArgumentError, match="2 rows"):
        bridge.run_with_cache(TOKENS, "hook_embed", remove_batch_dim=True)


def test_a_plain_dict_when_no_cache_object_is_wanted(bridge: Any) -> None:
    _, values = bridge.run_with_cache(TOKENS, "*.hook_z", return_cache_object=False)
    assert type(values) is dict
    assert list(values) == [f"blocks.{i}.attn.hook_z" for i in range(8)]


# --- the cache object ----------------------------------------------------------------------------


def test_a_cache_is_a_mapping(bridge: Any) -> None:
    names = ["hook_embed", *(f"blocks.{i}.attn.hook_z" for i in range(8))]
    _, cache = bridge.run_with_cache(TOKENS, names)
    assert list(cache) == list(cache.keys()) == names
    assert len(cache) == 9
    assert [name for name, _ in cache.items()] == names
    assert all(torch.equal(cache[name], value) for name, value in cache.items())
    assert "blocks.3.attn.hook_z" in cache
    assert "blocks.3.attn.hook_q" not in cache
    assert ("z", 3) in cache
    assert 7 not in cache
    assert "9 values" in repr(cache)


SHORT = {
    ("z", 3): "blocks.3.attn.hook_z",
    ("resid_post", -1): "blocks.7.hook_resid_post",
    ("scale", 4, "ln1"): "blocks.4.ln1.hook_scale",
    ("normalized", 2, "ln2_post"): "blocks.2.ln2_post.hook_normalized",
    ("attn", 1): "blocks.1.attn.hook_pattern",
    ("rot_k", 0): "blocks.0.attn.hook_rot_k",
    ("mlp_out", 5): "blocks.5.hook_mlp_out",
    ("pre", 5): "blocks.5.mlp.hook_pre",
    ("ple_out", -8): "blocks.0.hook_ple_out",
    ("shared_k", 6): "blocks.6.attn.hook_shared_k",
    "z3": "blocks.3.attn.hook_z",
    "scale4ln1": "blocks.4.ln1.hook_scale",
    "embed": "hook_embed",
    "scale": "ln_final.hook_scale",
}


def test_short_forms_find_the_full_names(bridge: Any) -> None:
    _, cache = bridge.run_with_cache(TOKENS)
    for short, full in SHORT.items():
        assert cache[short] is cache[full] or cache[short].data_ptr() == cache[full].data_ptr()
        assert short in cache


def test_a_name_that_was_not_kept_is_refused_by_name(bridge: Any) -> None:
    _, cache = bridge.run_with_cache(TOKENS, "*.hook_z")
    with pytest.raises(UnknownHookError, match=r"blocks\.3\.attn\.hook_q.*names_filter"):
        cache["q", 3]
    with pytest.raises(KeyError):
        cache["no_such_name"]
    with pytest.raises(ArgumentError, match="blocks 0 to 7"):
        cache["z", 8]
    assert cache.get("hook_embed") is None


def test_a_cache_moves_as_a_whole(bridge: Any) -> None:
    _, cache = bridge.run_with_cache(TOKENS)
    moved = cache.to("cpu", torch.float64)
    assert list(moved) == list(cache)
    for name, value in cache.items():
        want = value.double() if value.is_floating_point() else value
        assert moved[name].dtype == want.dtype
        assert torch.equal(moved[name], want)
    assert torch.equal(moved["z", -1], cache["z", -1].double())


# --- plans ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["e2b", "moe", "twelve_b"])
def test_a_plan_says_what_the_cache_will_take(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name)
    plan = bridge.plan((2, LENGTH), names_filter=lab.names(name))
    _, cache = bridge.run_with_cache(TOKENS, lab.names(name))
    assert [value.name for value in plan.values] == [p.name for p in bridge.hook_points()]
    for value in plan.values:
        assert (tuple(cache[value.name].shape), cache[value.name].dtype) == (
            value.shape,
            value.dtype,
        )
    storages = {value.data_ptr(): value.nbytes for value in cache.values()}
    assert plan.cache_bytes == sum(storages.values())
    assert plan.values[-1].name in repr(plan)


def test_a_cache_that_does_not_fit_is_refused_before_the_run(bridge: Any) -> None:
    long = torch.ones(1, 400_000, dtype=torch.int64)
    with pytest.raises(CacheTooLargeError, match=r"names_filter.*pos_slice") as caught:
        bridge.run_with_cache(long)
    assert isinstance(caught.value, MemoryError)
    assert "hook_attn_scores" in str(caught.value)  # the largest
    assert "GiB" in str(caught.value)
