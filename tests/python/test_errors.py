"""Mistakes are refused by name, with what to do; a hook's own error comes back as it is."""

from __future__ import annotations

import re
import traceback
from typing import Any

import pytest
import torch

import bezel
from bezel import errors
from bezel.errors import (
    ArgumentError,
    HookNotApplicableError,
    HookResultError,
    UnknownHookError,
)
from support import fixtures
from support.hook_functions import nothing
from support.lab import Lab

TOKENS = fixtures.tokens(9)
Z = "blocks.3.attn.hook_z"


@pytest.fixture(scope="module")
def bridge(lab: Lab) -> Any:
    return lab.bridge("e2b")


WAYS = {
    "names_filter": lambda bridge, name: bridge.run_with_cache(TOKENS, name),
    "one of several names": lambda bridge, name: bridge.run_with_cache(TOKENS, [Z, name]),
    "fwd_hooks": lambda bridge, name: bridge.run_with_hooks(TOKENS, [(name, nothing)]),
    "bwd_hooks": lambda bridge, name: bridge.run_with_hooks(TOKENS, bwd_hooks=[(name, nothing)]),
    "plan": lambda bridge, name: bridge.plan((1, 4), name),
}


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("blocks.3.attn.hook_zz", "blocks.3.attn.hook_z"),
        ("blocks.3.attn.hook_patern", "blocks.3.attn.hook_pattern"),
        ("hook_embeds", "hook_embed"),
        ("blocks.3.hook_residpost", "blocks.3.hook_resid_post"),
        ("blocks.8.attn.hook_z", "attn.hook_z"),  # a layer too far
        ("blocks.3.ln1.hook_scal", "blocks.3.ln1.hook_scale"),
        ("attn.hook_z", "attn.hook_z"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(
    bridge: Any, way: str, name: str, near: str
) -> None:
    with pytest.raises(UnknownHookError) as caught:
        WAYS[way](bridge, name)
    message = str(caught.value)
    assert f'"{name}"' in message
    names = [quoted for quoted in re.findall(r'"([^"]+)"', message) if quoted != name]
    known = {point.name for point in bridge.hook_points()}
    assert len(names) == 3
    assert set(names) <= known
    assert any(near in other for other in names)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "selector",
    ["blocks.*.hook_zz", "nothing*", re.compile("hook"), lambda name: False, "*.hook_resul*"],
    ids=["glob", "short glob", "regex", "callable", "on demand by a glob with an open end"],
)
def test_a_selector_that_matches_nothing_is_refused(bridge: Any, way: str, selector: Any) -> None:
    with pytest.raises(UnknownHookError):
        WAYS[way](bridge, selector)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("model", "name", "reason"),
    [
        ("e2b", "blocks.5.attn.hook_k", r"shares keys and values.*block 2.*hook_shared_k"),
        ("e2b", "blocks.7.hook_v_input", r"block 3"),
        ("e2b", "blocks.1.attn.hook_shared_k", r"its own keys and values"),
        ("e2b", "blocks.1.moe.hook_out", r"no experts"),
        ("mha", "blocks.1.hook_ple_out", r"no per-layer embeddings"),
        ("mha", "ple.hook_inputs", r"no per-layer embeddings"),
    ],
)
def test_a_name_that_a_layer_lacks_is_refused_with_the_reason(
    lab: Lab, way: str, model: str, name: str, reason: str
) -> None:
    with pytest.raises(HookNotApplicableError, match=f'"{re.escape(name)}".*{reason}'):
        WAYS[way](lab.bridge(model), name)


@pytest.mark.parametrize("name", [3, 2.5, object(), [[Z]], [None]])
def test_a_name_of_another_kind_is_refused(bridge: Any, name: Any) -> None:
    with pytest.raises(ArgumentError, match="name"):
        bridge.run_with_cache(TOKENS, name)


def test_an_empty_filter_is_refused(bridge: Any) -> None:
    for empty in ([], (), set(), iter([])):
        with pytest.raises(ArgumentError, match="names_filter is empty"):
            bridge.run_with_cache(TOKENS, empty)


def test_an_error_in_a_callable_filter_comes_back_unchanged(bridge: Any) -> None:
    error = ZeroDivisionError("of the filter")

    def fails(name: str) -> bool:
        raise error

    with pytest.raises(ZeroDivisionError) as caught:
        bridge.run_with_cache(TOKENS, fails)
    assert caught.value is error


@pytest.mark.parametrize(
    "pairs", [[Z], [(Z,)], [(Z, "not callable")], [(Z, nothing, "more")], [None]]
)
def test_pairs_that_are_none_are_refused(bridge: Any, pairs: Any) -> None:
    with pytest.raises(ArgumentError, match="fwd_hooks.*name, function"):
        bridge.run_with_hooks(TOKENS, pairs)


# --- what a hook gives back ----------------------------------------------------------------------

WRONG_RESULTS = {
    "a shorter one": (lambda z: z[:, 1:], r"\[2, 8, 4, 16\].*\[2, 9, 4, 16\]"),
    "one that would broadcast": (lambda z: z[:1], r"\[1, 9, 4, 16\].*\[2, 9, 4, 16\]"),
    "a scalar": (lambda z: z.sum(), r"\[\].*\[2, 9, 4, 16\]"),
    "another order of axes": (lambda z: z.transpose(1, 2), r"\[2, 4, 9, 16\].*\[2, 9, 4, 16\]"),
    "complex numbers": (lambda z: z.to(torch.complex64), "[Cc]omplex"),
    "a number": (lambda z: 0, "int"),
    "an array": (lambda z: z.numpy(), "ndarray"),
    "a pair": (lambda z: (z, z), "tuple"),
}


@pytest.mark.parametrize("kind", WRONG_RESULTS)
def test_a_wrong_result_is_refused_with_hook_got_and_want(bridge: Any, kind: str) -> None:
    change, message = WRONG_RESULTS[kind]
    with pytest.raises(HookResultError, match=message) as caught:
        bridge.run_with_hooks(TOKENS, [(Z, lambda z, hook: change(z))])
    assert f'"{Z}"' in str(caught.value)


def test_a_wrong_gradient_is_refused_too(bridge: Any) -> None:
    loss = bridge.run_with_hooks(TOKENS, bwd_hooks=[(Z, lambda g, hook: g[:1])], return_type="loss")
    with pytest.raises(HookResultError, match=r"hook_z.*\[1, 9, 4, 16\].*\[2, 9, 4, 16\]"):
        loss.backward()


RESIZED = {
    "resize_": lambda x: x.resize_(1),
    "unsqueeze_": lambda x: x.unsqueeze_(0),
    "set_": lambda x: x.set_(torch.zeros(3)),
    "transpose_": lambda x: x.transpose_(1, 2),
}


@pytest.mark.parametrize("returned", [True, False], ids=["returned", "kept"])
@pytest.mark.parametrize("direction", ["fwd_hooks", "bwd_hooks"])
@pytest.mark.parametrize("kind", RESIZED)
def test_a_value_that_was_given_another_shape_in_place_is_refused(
    bridge: Any, kind: str, direction: str, returned: bool
) -> None:
    def reshapes(value: torch.Tensor, hook: Any) -> torch.Tensor | None:
        result: torch.Tensor = RESIZED[kind](value)
        return result if returned else None

    def run() -> None:
        loss = bridge.run_with_hooks(TOKENS, return_type="loss", **{direction: [(Z, reshapes)]})
        loss.backward()

    with pytest.raises(HookResultError, match=rf'"{re.escape(Z)}".*is Float \[2, 9, 4, 16\]'):
        run()


def test_experts_out_of_range_are_refused(lab: Lab) -> None:
    name = "blocks.2.moe.hook_expert_indices"
    for wrong in (-1, 8):
        with pytest.raises(HookResultError, match="experts 0 to 7"):
            lab.bridge("moe").run_with_hooks(
                TOKENS, [(name, lambda x, hook, to=wrong: torch.full_like(x, to))]
            )


def test_token_ids_out_of_range_are_refused(lab: Lab) -> None:
    for name, d_vocab in (("e2b", 160), ("e4b", 160)):  # e4b's other table has more rows
        bridge = lab.bridge(name)
        for wrong in (-1, d_vocab):
            with pytest.raises(ArgumentError, match=f"{wrong}.*ids 0 to {d_vocab - 1}"):
                bridge(torch.full((1, 3), wrong))
            with pytest.raises(ArgumentError, match=f"{wrong}.*ids 0 to {d_vocab - 1}"):
                bridge.run_with_hooks(
                    TOKENS, [("hook_tokens", lambda x, hook, to=wrong: torch.full_like(x, to))]
                )


def test_ln1_and_a_copy_of_the_stream_cannot_both_be_changed(bridge: Any) -> None:
    for norm in ("scale", "normalized"):
        for part in "qkv":
            names = [f"blocks.1.ln1.hook_{norm}", f"blocks.1.hook_{part}_input"]
            with pytest.raises(ArgumentError, match="ln1"):
                bridge.run_with_hooks(TOKENS, [(name, nothing) for name in names])
            with pytest.raises(ArgumentError, match="ln1"):
                bridge.run_with_cache(TOKENS, names, incl_bwd=True, return_type="loss")


# --- a hook's own errors -------------------------------------------------------------------------


class OwnError(Exception):
    pass


def fail_here(error: BaseException) -> None:
    raise error  # the line that a traceback must show


ERRORS = [OwnError("mine", 7), KeyError("k"), RuntimeError("r"), SystemExit(3), KeyboardInterrupt()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_in_a_hook_comes_back_as_it_is(bridge: Any, error: BaseException) -> None:
    def hook_that_fails(value: torch.Tensor, hook: Any) -> None:
        fail_here(error)

    with pytest.raises(type(error)) as caught:
        bridge.run_with_hooks(TOKENS, [(Z, hook_that_fails)])
    assert caught.value is error
    functions = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert functions[-2:] == ["hook_that_fails", "fail_here"]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_in_a_backward_hook_comes_back_as_it_is(bridge: Any, error: BaseException) -> None:
    def hook_that_fails(value: torch.Tensor, hook: Any) -> None:
        fail_here(error)

    loss = bridge.run_with_hooks(TOKENS, bwd_hooks=[(Z, hook_that_fails)], return_type="loss")
    with pytest.raises(type(error)) as caught:
        loss.backward()
    assert caught.value is error
    functions = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert functions[-2:] == ["hook_that_fails", "fail_here"]


def test_an_error_leaves_nothing_behind(bridge: Any) -> None:
    plain = bridge(TOKENS)
    for direction in ("fwd_hooks", "bwd_hooks"):
        asked = {direction: [(Z, lambda value, hook: fail_here(OwnError()))]}
        with pytest.raises(OwnError):
            bridge.run_with_cache(TOKENS, None, incl_bwd=True, return_type="loss", **asked)
        assert torch.equal(bridge(TOKENS), plain)
        bridge.run_with_cache(TOKENS, None, incl_bwd=True, return_type="loss")


def test_an_error_of_a_run_inside_a_hook_comes_back_as_it_is(bridge: Any) -> None:
    def run_inside(value: torch.Tensor, hook: Any) -> None:
        bridge.run_with_cache(TOKENS, "hook_embeds")

    with pytest.raises(UnknownHookError, match="hook_embeds"):
        bridge.run_with_hooks(TOKENS, [(Z, run_inside)])


# --- arguments -----------------------------------------------------------------------------------

ONES = torch.ones(2, 9, dtype=torch.int64)
BAD_ARGUMENTS = {
    "no argument of this name": (TypeError, {"names": Z}, "unknown argument 'names'"),
    "a misspelt one": (TypeError, {"atention_mask": ONES}, "'atention_mask'.*attention_mask"),
    "a return_type": (ArgumentError, {"return_type": "logit"}, "return_type"),
    "a mask of another length": (ArgumentError, {"attention_mask": ONES[:, 1:]}, "attention_mask"),
    "a mask with other numbers": (ArgumentError, {"attention_mask": 2 * ONES}, "0 .padding.*1"),
    "a row without text": (ArgumentError, {"attention_mask": ONES * 0}, "at least one valid"),
    "positions of floats": (ArgumentError, {"position_ids": ONES.float()}, "position_ids"),
    "positions below zero": (ArgumentError, {"position_ids": ONES - 2}, "negative"),
    "positions of another shape": (ArgumentError, {"position_ids": ONES[0]}, "position_ids"),
    "a mask that is no tensor": (
        ArgumentError,
        {"attention_mask": [[1] * 9] * 2},
        "attention_mask is a list; wanted a tensor",
    ),
    "types that are no tensor": (ArgumentError, {"mm_token_type_ids": 0}, "mm_token_type_ids"),
    "a layer between layers": (ArgumentError, {"stop_at_layer": 2.0}, "stop_at_layer is a float"),
    "a count that is none": (ArgumentError, {"logits_to_keep": "3"}, "logits_to_keep is a str"),
    "a state without names": (ArgumentError, {"start_state": [1]}, "start_state is a list"),
    "token types of another shape": (
        ArgumentError,
        {"mm_token_type_ids": ONES[:, :3]},
        "mm_token_type_ids",
    ),
    "labels of another shape": (
        ArgumentError,
        {"labels": ONES[:, 1:], "return_type": "loss"},
        "labels",
    ),
    "labels of floats": (
        ArgumentError,
        {"labels": ONES.float(), "return_type": "loss"},
        "labels",
    ),
    "labels out of range": (
        ArgumentError,
        {"labels": 160 * ONES, "return_type": "loss"},
        "labels",
    ),
    "a loss without logits": (
        ArgumentError,
        {"stop_at_layer": 3, "return_type": "loss"},
        "stop_at_layer",
    ),
    "a loss of some positions": (
        ArgumentError,
        {"logits_to_keep": 2, "return_type": "loss"},
        "logits_to_keep",
    ),
    "text's arguments with ids": (ArgumentError, {"prepend_bos": True}, "prepend_bos"),
    "text's padding with ids": (ArgumentError, {"padding_side": "left"}, "padding_side"),
}


@pytest.mark.parametrize("kind", BAD_ARGUMENTS)
def test_an_argument_that_does_not_fit_is_refused_by_name(lab: Lab, kind: str) -> None:
    error, arguments, message = BAD_ARGUMENTS[kind]
    with pytest.raises(error, match=message):
        lab.bridge("twelve_b")(TOKENS, **arguments)


BAD_INPUTS = {
    "no tokens": torch.zeros(1, 0, dtype=torch.int64),
    "three axes": torch.zeros(1, 2, 3, dtype=torch.int64),
    "a number": torch.tensor(5),
    "booleans": torch.ones(1, 3, dtype=torch.bool),
    "an array": torch.ones(1, 3, dtype=torch.int64).numpy(),
}


@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_an_input_that_is_none_is_refused(bridge: Any, kind: str) -> None:
    with pytest.raises(ArgumentError, match="token|tensor"):
        bridge(BAD_INPUTS[kind])


def test_a_loss_of_one_token_is_refused(bridge: Any) -> None:
    with pytest.raises(ArgumentError, match="two tokens"):
        bridge(TOKENS[:, :1], return_type="loss")
    each = bridge(TOKENS[:, :1], return_type="loss", loss_per_token=True)
    assert each.shape == (2, 0)


def test_a_path_that_is_none_is_refused(lab: Lab) -> None:
    with pytest.raises(ArgumentError, match="path is \"?'?fast"):
        bezel.Bridge.from_pretrained(lab.folder("e2b"), path="fast")


def test_every_error_is_bezels_and_the_built_in_that_fits() -> None:
    built_ins = {
        errors.ArgumentError: ValueError,
        errors.UnknownHookError: KeyError,
        errors.HookNotApplicableError: ValueError,
        errors.HookNeverFiredError: RuntimeError,
        errors.HookResultError: TypeError,
        errors.CacheTooLargeError: MemoryError,
        errors.CheckpointError: ValueError,
    }
    for error, built_in in built_ins.items():
        assert issubclass(error, bezel.Error)
        assert issubclass(error, built_in)
    assert str(errors.UnknownHookError('no "x"')) == 'no "x"'  # KeyError alone would quote it
