"""Parts that would not sum are refused, and what was not recorded is asked for by name."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest
import torch

import bezel
from bezel.errors import ArgumentError, DecompositionError, UnknownHookError
from support import fixtures
from support.lab import Lab

TOKENS = fixtures.tokens(11)
METHODS = {
    "decompose_resid": lambda cache, layer: cache.decompose_resid(layer),
    "attn": lambda cache, layer: cache.decompose_resid(layer, mode="attn", incl_embeds=False),
    "with its norm": lambda cache, layer: cache.decompose_resid(layer, apply_ln=True),
    "mlp_input": lambda cache, layer: cache.decompose_resid(3, mlp_input=True, apply_ln=True),
    "accumulated_resid": lambda cache, layer: cache.accumulated_resid(layer, incl_mid=True),
    "logit lens": lambda cache, layer: cache.accumulated_resid(layer, apply_ln=True),
    "heads": lambda cache, layer: cache.stack_head_results(layer),
    "heads and the rest": lambda cache, layer: cache.stack_head_results(layer, False, True),
    "heads, normed": lambda cache, layer: cache.stack_head_results(layer, apply_ln=True),
    "compute_head_results": lambda cache, layer: cache.compute_head_results(),
    "one block's neurons": lambda cache, layer: cache.get_neuron_results(2),
    "neurons": lambda cache, layer: cache.stack_neuron_results(layer, -1, incl_remainder=True),
    "full": lambda cache, layer: cache.get_full_resid_decomposition(layer),
    "full, normed": lambda cache, layer: cache.get_full_resid_decomposition(layer, apply_ln=True),
    "full, branches": lambda cache, layer: cache.get_full_resid_decomposition(layer, False, False),
    "stack_activation": lambda cache, layer: cache.stack_activation("resid_mid", layer),
}


# --- values that were not recorded ---------------------------------------------------------------


def asked_for(error: UnknownHookError) -> list[str]:
    (listed,) = re.findall(r"names_filter=(\[.*?\])", str(error))
    return ast.literal_eval(listed)


@pytest.mark.parametrize("layer", [4, -1])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["e2b", "moe"])
def test_the_error_for_missing_values_has_the_filter_that_is_needed(
    lab: Lab, name: str, method: str, layer: int
) -> None:
    """Following the messages leads to a cache that works, and gives what the whole cache gives."""
    bridge = lab.bridge(name)
    wanted = ["hook_tokens"]
    for _ in range(3):  # the parts, then the norm
        _, cache = bridge.run_with_cache(TOKENS, wanted)
        try:
            got = METHODS[method](cache, layer)
        except UnknownHookError as error:
            wanted += asked_for(error)
    want = METHODS[method](bridge.run_with_cache(TOKENS)[1], layer)
    if want is not None:  # the fused path rounds otherwise where more is recorded
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["e2b", "moe"])
def test_no_value_that_is_asked_for_is_superfluous(lab: Lab, name: str) -> None:
    """Without any one of the names the full decomposition refuses: it has no second way."""
    bridge = lab.bridge(name)
    with pytest.raises(UnknownHookError) as caught:
        bridge.run_with_cache(TOKENS, "hook_tokens")[1].get_full_resid_decomposition()
    for left_out in asked_for(caught.value):
        names = [name for name in asked_for(caught.value) if name != left_out]
        with pytest.raises(UnknownHookError, match=re.escape(left_out.split("*")[-1])):
            bridge.run_with_cache(TOKENS, names)[1].get_full_resid_decomposition()


def test_a_stream_that_may_have_been_edited_is_asked_for(lab: Lab) -> None:
    """resid_post of block 2 is not resid_pre of block 3 where a hook sat between them."""
    names = ["hook_full_embed", "*.hook_attn_out", "*.hook_mlp_out", "*.hook_ple_out"]
    names += ["*.hook_resid_post"]
    _, cache = lab.bridge("e2b").run_with_cache(TOKENS, names)
    with pytest.raises(UnknownHookError, match=r"blocks\.3\.hook_resid_pre"):
        cache.decompose_resid(3)
    _, early = lab.bridge("e2b").run_with_cache(TOKENS, names, stop_at_layer=3)
    assert early.decompose_resid(3).shape[0] == 10


def test_a_run_that_began_in_the_middle_has_no_decomposition(lab: Lab) -> None:
    bridge = lab.bridge("mha")
    _, cache = bridge.run_with_cache(TOKENS)
    _, late = bridge.run_with_cache(cache["resid_pre", 2], start_at_layer=2, tokens=TOKENS)
    with pytest.raises(UnknownHookError, match="hook_full_embed"):
        late.decompose_resid()


# --- sums that a hook broke ----------------------------------------------------------------------

STREAM = ["hook_resid_pre", "hook_resid_mid", "hook_resid_post"]
HEADS = ["attn.hook_out", "ln1_post.hook_normalized"]
MLP = ["mlp.hook_out", "ln2_post.hook_normalized"]
EXPERTS = ["ln2_dense_post.hook_normalized", "ln2_moe_post.hook_normalized", "moe.hook_out"]
SETTINGS = {
    "float32": ({"dtype": torch.float32}, 1e-3),
    "float64": ({"dtype": torch.float64, "path": "open"}, 1e-8),
    "bfloat16": ({"dtype": torch.bfloat16}, 0.2),
}


def shifted(amount: float) -> Any:
    def shift(value: torch.Tensor, hook: Any) -> torch.Tensor:
        value[0, -1] += amount * value[0, -1].norm() / value.shape[-1] ** 0.5
        return value

    return shift


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("row", STREAM)
def test_an_edit_of_the_stream_at_one_position_is_noticed(lab: Lab, row: str, setting: str) -> None:
    arguments, amount = SETTINGS[setting]
    name = f"blocks.3.{row}"
    kept = ["hook_full_embed", "*.hook_attn_out", "*.hook_mlp_out", "*.hook_ple_out"]
    bridge = lab.bridge("e2b", **arguments)
    # From the ends alone the stream is followed through all blocks: rounding hides more there.
    for names, hidden in ((None, 1), ([*kept, "blocks.7.hook_resid_post"], 5)):
        hooks = [(name, shifted(amount * hidden))]
        _, cache = bridge.run_with_cache(TOKENS, names, fwd_hooks=hooks)
        with pytest.raises(DecompositionError, match="do not sum") as caught:
            cache.decompose_resid()
        where = name if names is None else "blocks.7.hook_resid_post"
        assert f'"{where}"' in str(caught.value)
        if names is None:  # what enters an earlier block was not touched
            cache.decompose_resid(2)
            for method in ("heads", "neurons", "full", "attn"):
                with pytest.raises(DecompositionError):
                    METHODS[method](cache, -1)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("row", [*HEADS, *MLP, *EXPERTS])
def test_an_edit_between_a_component_and_the_stream_is_noticed(
    lab: Lab, row: str, setting: str
) -> None:
    arguments, amount = SETTINGS[setting]
    bridge = lab.bridge("moe", **arguments)
    hooks = [(f"blocks.2.{row}", shifted(amount))]
    _, cache = bridge.run_with_cache(TOKENS, fwd_hooks=hooks)
    cache.decompose_resid()  # what was added was recorded: exact
    if row == "moe.hook_out":
        cache.get_full_resid_decomposition()  # recorded after the edit: exact too
        return
    broken = ["heads"] if row in HEADS else ["one block's neurons", "neurons"]
    for method in [*broken, "full"]:
        with pytest.raises(DecompositionError, match=r"blocks\.2\.hook_(attn|mlp)_out"):
            METHODS[method](cache, -1)
    for method in {"heads", "neurons"} - set(broken):
        METHODS[method](cache, -1)


@pytest.mark.parametrize("row", ["hook_attn_in", "ln1.hook_normalized", "ln2.hook_normalized"])
def test_an_edit_of_what_a_norm_reads_or_gives_is_noticed(lab: Lab, row: str) -> None:
    bridge = lab.bridge("e2b")
    _, cache = bridge.run_with_cache(TOKENS, fwd_hooks=[(f"blocks.2.{row}", shifted(0.01))])
    mlp_input = row.startswith("ln2")
    parts = cache.decompose_resid(2, mlp_input)
    for ask in (
        lambda: cache.apply_ln_to_stack(parts, 2, mlp_input),
        lambda: cache.get_full_resid_decomposition(2, mlp_input, apply_ln=True),
    ):
        with pytest.raises(DecompositionError, match=r"through blocks\.2\.ln"):
            ask()
    cache.decompose_resid(apply_ln=True)


def test_an_edit_of_the_final_norm_is_noticed(lab: Lab) -> None:
    hooks = [("ln_final.hook_normalized", shifted(0.01))]
    _, cache = lab.bridge("e2b").run_with_cache(TOKENS, fwd_hooks=hooks)
    with pytest.raises(DecompositionError, match="ln_final"):
        cache.logit_attrs(cache.decompose_resid(), 3)


def test_the_weights_of_another_model_are_noticed(lab: Lab) -> None:
    _, cache = lab.bridge("e2b").run_with_cache(TOKENS)
    cache.model = lab.bridge("wrapped_e2b")  # the same sizes
    for method in ("decompose_resid", "heads", "one block's neurons"):
        with pytest.raises(DecompositionError, match="not the weights of that run"):
            METHODS[method](cache, -1)


def test_values_that_are_not_numbers_are_no_sum(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    _, cache = bridge.run_with_cache(TOKENS)
    cache["resid_mid", 1][0, 0, 0] = float("nan")
    with pytest.raises(DecompositionError, match=r"blocks\.1\.hook_resid_mid"):
        cache.decompose_resid()


# --- arguments -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(lab: Lab) -> bezel.ActivationCache:
    return lab.bridge("e2b").run_with_cache(TOKENS)[1]


REFUSED = {
    "a layer too far": (lambda c: c.decompose_resid(9), "0 to 8"),
    "a layer below": (lambda c: c.accumulated_resid(-2), "0 to 8"),
    "a layer that is no number": (lambda c: c.stack_head_results(True), "0 to 8"),
    "the MLP after the end": (lambda c: c.decompose_resid(8, True), "no MLP"),
    "the MLP of the end": (lambda c: c.apply_ln_to_stack(c["embed"][None], -1, True), "no MLP"),
    "an unknown mode": (lambda c: c.decompose_resid(mode="moe"), "mode is 'moe'"),
    "no heads": (lambda c: c.stack_head_results(0), "before layer 0"),
    "no neurons": (lambda c: c.stack_neuron_results(0), "before layer 0"),
    "no blocks": (lambda c: c.stack_activation("z", 0), "before layer 0"),
    "a block too far": (lambda c: c.get_neuron_results(8), "0 to 7"),
    "a block from the end": (lambda c: c.get_neuron_results(-1), "0 to 7"),
    "a neuron too far": (lambda c: c.get_neuron_results(1, 99), "neuron_slice=99"),
    "a position too far": (lambda c: c.decompose_resid(pos_slice=11), "pos_slice=11"),
    "no positions": (lambda c: c.decompose_resid(pos_slice=(5, 5)), "chooses nothing"),
    "an empty list": (lambda c: c.decompose_resid(pos_slice=torch.tensor([]).long()), "nothing"),
    "a backward slice": (lambda c: c.decompose_resid(pos_slice=(8, 2, -1)), "pos_slice"),
    "half a position": (lambda c: c.decompose_resid(pos_slice=1.5), "is none of"),
    "a bool": (lambda c: c.decompose_resid(pos_slice=True), "is none of"),
    "a float index": (lambda c: c.decompose_resid(pos_slice=torch.tensor(1.0)), "is none of"),
    "a short mask": (lambda c: c.decompose_resid(pos_slice=torch.ones(3).bool()), "does not fit"),
    "ragged blocks": (lambda c: c.stack_activation("mlp_post"), r"blocks\.4\.mlp"),
    "another width": (
        lambda c: c.get_neuron_results(1, None, None, torch.ones(7)), r"wanted floats \[48\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_arguments_outside_their_range_are_refused(cache: Any, case: str) -> None:
    ask, message = REFUSED[case]
    with pytest.raises(ArgumentError, match=message.replace("'", "['\"]")):
        ask(cache)


def test_a_cache_without_its_model_says_how_to_get_it(lab: Lab) -> None:
    _, cache = lab.bridge("e2b").run_with_cache(TOKENS)
    cache.model = None
    assert len(cache.accumulated_resid()) == 9
    for method in ("decompose_resid", "heads", "full", "logit lens"):
        with pytest.raises(ArgumentError, match="model=b"):
            METHODS[method](cache, -1)
