"""Norms at their recorded scale, and logits as sums of attributions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import bezel
from bezel.errors import ArgumentError, UnknownHookError
from support import checkpoint_forms, compare, fixtures
from support.lab import Lab

NAMES = tuple(fixtures.RECIPES)
LENGTH = 12
TOKENS = fixtures.tokens(LENGTH)
NEXT = fixtures.tokens(LENGTH, seed=5)
WRONG = fixtures.tokens(LENGTH, seed=6)
NANO = Path(__file__).resolve().parents[1] / "data" / "nano"
EXACT = {"rtol": 1e-11, "atol": 1e-11}


@pytest.fixture(scope="module", params=NAMES)
def bridge(lab: Lab, request: pytest.FixtureRequest) -> Any:
    return lab.bridge(request.param, dtype=torch.float64, path="open")


@pytest.fixture(scope="module")
def cache(bridge: Any) -> bezel.ActivationCache:
    return bridge.run_with_cache(TOKENS)[1]


def weight(lab: Lab, name: str, suffix: str) -> torch.Tensor:
    """A tensor of the checkpoint itself, by the end of its name in the text model."""
    tensors = checkpoint_forms.load_tensors(lab.folder(name))
    at = "language_model." if fixtures.RECIPES[name].wrapper != "none" else "model."
    (found,) = [value for key, value in tensors.items() if key.endswith(at + suffix)]
    return found.double()


def picked(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


# --- norms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_parts_through_a_norm_sum_to_its_output(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name, dtype=torch.float64, path="open")
    _, cache = bridge.run_with_cache(TOKENS)
    for layer, mlp_input, at, gain in (
        (-1, False, "ln_final", "norm"),
        (2, False, "blocks.2.ln1", "layers.2.input_layernorm"),
        (2, True, "blocks.2.ln2", "layers.2.pre_feedforward_layernorm"),
        (0, True, "blocks.0.ln2", "layers.0.pre_feedforward_layernorm"),
    ):
        want = cache[f"{at}.hook_normalized"] * weight(lab, name, f"{gain}.weight")
        parts = cache.decompose_resid(layer, mlp_input)
        summed = [
            cache.apply_ln_to_stack(parts, layer, mlp_input).sum(0),
            cache.decompose_resid(layer, mlp_input, apply_ln=True).sum(0),
            cache.get_full_resid_decomposition(layer, mlp_input, apply_ln=True).sum(0),
        ]
        if layer != 0:
            summed.append(
                cache.stack_neuron_results(
                    layer, incl_remainder=True, apply_ln=True, mlp_input=mlp_input
                ).sum(0)
            )
        if not mlp_input:
            summed.append(
                cache.stack_head_results(layer, incl_remainder=True, apply_ln=True).sum(0)
            )
        for got in summed:
            torch.testing.assert_close(got, want, **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_the_logit_lens_norms_each_stream_by_itself(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name, dtype=torch.float64, path="open")
    _, cache = bridge.run_with_cache(TOKENS)
    lens = cache.accumulated_resid(apply_ln=True) @ weight(lab, name, "embed_tokens.weight").T
    torch.testing.assert_close(lens[-1], cache["hook_unembed"], **EXACT)
    # A run that ends after block 2, through the head: start the last block's end at that stream.
    for layer in (0, 2):
        stream = cache["resid_pre", layer]
        last = f"blocks.{bridge.cfg.n_layers - 1}.hook_resid_post"
        early = bridge.run_with_hooks(TOKENS, [(last, lambda value, hook, put=stream: put)])
        cap = bridge.cfg.softcap
        got = cap * (lens[layer] / cap).tanh() if cap else lens[layer]
        torch.testing.assert_close(got, early, **EXACT)


def test_a_blocks_accumulated_streams_use_its_recorded_scale(cache: Any) -> None:
    got = cache.accumulated_resid(2, apply_ln=True)
    stack = cache.accumulated_resid(2)
    torch.testing.assert_close(got, cache.apply_ln_to_stack(stack, 2), **EXACT)
    assert not torch.allclose(got[0], cache.apply_ln_to_stack(stack, 2, recompute_ln=True)[0])


# --- logits --------------------------------------------------------------------------------------


def test_attributions_sum_to_the_logits_before_the_softcap(bridge: Any, cache: Any) -> None:
    right, wrong = picked(cache["hook_unembed"], NEXT), picked(cache["hook_unembed"], WRONG)
    for parts in (
        cache.decompose_resid(),
        cache.get_full_resid_decomposition(),
        cache.stack_head_results(incl_remainder=True),
    ):
        torch.testing.assert_close(cache.logit_attrs(parts, NEXT).sum(0), right, **EXACT)
        got = cache.logit_attrs(parts, NEXT, WRONG).sum(0)
        torch.testing.assert_close(got, right - wrong, **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_attributions_through_the_softcap_are_the_references_logits(lab: Lab, name: str) -> None:
    _, cache = lab.bridge(name).run_with_cache(TOKENS)
    raw = cache.logit_attrs(cache.get_full_resid_decomposition(), NEXT).sum(0)
    with torch.no_grad():
        want = lab.reference(name)(input_ids=TOKENS).logits
    cap = lab.bridge(name).cfg.softcap
    got = cap * (raw / cap).tanh() if cap else raw
    assert (got - picked(want, NEXT)).abs().max() <= compare.logits_gate(want)


def test_an_untied_head_is_the_direction(lab: Lab) -> None:
    bridge = lab.bridge("mha", form="untied", dtype=torch.float64, path="open")
    _, cache = bridge.run_with_cache(TOKENS)
    got = cache.logit_attrs(cache.decompose_resid(), NEXT).sum(0)
    torch.testing.assert_close(got, picked(cache["hook_unembed"], NEXT), **EXACT)


TOKEN_FORMS = {
    "an int": (17, lambda: torch.full_like(TOKENS, 17)),
    "one id": (torch.tensor(17), lambda: torch.full_like(TOKENS, 17)),
    "[batch]": (torch.tensor([17, 30]), lambda: torch.tensor([[17], [30]]).expand_as(TOKENS)),
    "[pos]": (NEXT[0], lambda: NEXT[:1].expand_as(TOKENS)),
    "[1 pos]": (NEXT[:1], lambda: NEXT[:1].expand_as(TOKENS)),
    "[batch 1]": (NEXT[:, :1], lambda: NEXT[:, :1].expand_as(TOKENS)),
    "[batch pos]": (NEXT, lambda: NEXT),
}


@pytest.mark.parametrize("form", TOKEN_FORMS)
def test_tokens_may_be_given_once_by_row_by_position_or_by_place(cache: Any, form: str) -> None:
    tokens, want = TOKEN_FORMS[form]
    got = cache.logit_attrs(cache.decompose_resid(), tokens)
    assert got.shape[1:] == TOKENS.shape
    torch.testing.assert_close(got.sum(0), picked(cache["hook_unembed"], want()), **EXACT)


def test_rows_and_positions_are_cut(cache: Any) -> None:
    unembed = cache["hook_unembed"]
    last = cache.decompose_resid(pos_slice=-1)
    got = cache.logit_attrs(last, NEXT[:, -1], pos_slice=-1).sum(0)
    torch.testing.assert_close(got, picked(unembed, NEXT)[:, -1], **EXACT)
    whole = cache.decompose_resid()
    got = cache.logit_attrs(whole, NEXT[1], batch_slice=1).sum(0)
    torch.testing.assert_close(got, picked(unembed, NEXT)[1], **EXACT)
    got = cache.logit_attrs(whole, NEXT[1:], batch_slice=(1, 2)).sum(0)
    torch.testing.assert_close(got, picked(unembed, NEXT)[1:], **EXACT)
    got = cache.logit_attrs(whole[:, 1], NEXT[1], batch_slice=1, has_batch_dim=False).sum(0)
    torch.testing.assert_close(got, picked(unembed, NEXT)[1], **EXACT)
    got = cache.logit_attrs(whole[:, :, 2:5], NEXT[:, 2:5], pos_slice=(2, 5)).sum(0)
    torch.testing.assert_close(got, picked(unembed, NEXT)[:, 2:5], **EXACT)
    got = cache.logit_attrs(last, NEXT[1, -1], pos_slice=-1, batch_slice=1).sum(0)
    torch.testing.assert_close(got, picked(unembed, NEXT)[1, -1], **EXACT)


def test_attribution_without_a_batch_axis(bridge: Any) -> None:
    _, cache = bridge.run_with_cache(TOKENS[:1], remove_batch_dim=True)
    want = picked(cache["hook_unembed"], NEXT[0])
    for arguments in ({}, {"has_batch_dim": False}):
        got = cache.logit_attrs(cache.decompose_resid(), NEXT[0], **arguments).sum(0)
        torch.testing.assert_close(got, want, **EXACT)


def test_a_recorded_scale_that_was_edited_is_the_one_that_counts(bridge: Any) -> None:
    hooks = [("ln_final.hook_scale", lambda value, hook: value * 2)]
    _, cache = bridge.run_with_cache(TOKENS, fwd_hooks=hooks)
    got = cache.logit_attrs(cache.decompose_resid(), NEXT).sum(0)
    torch.testing.assert_close(got, picked(cache["hook_unembed"], NEXT), **EXACT)


def test_texts_are_single_tokens(lab: Lab) -> None:
    b = bezel.Bridge.from_pretrained(str(NANO))
    tokens = b.to_tokens("When Hugo and Mary went to the shop , Mary gave a drink to")
    logits, cache = b.run_with_cache(tokens)
    heads = cache.stack_head_results(pos_slice=-1, incl_remainder=True)
    ids = [b.tokenizer(name, add_special_tokens=False)["input_ids"] for name in ("Hugo", "Mary")]
    got = cache.logit_attrs(heads, "Hugo", "Mary", pos_slice=-1).sum(0)
    want = cache["hook_unembed"][:, -1, ids[0][0]] - cache["hook_unembed"][:, -1, ids[1][0]]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert logits[0, -1].argmax() == ids[0][0]
    with pytest.raises(ArgumentError, match="'Hugo and' is 2 tokens"):
        cache.logit_attrs(heads, "Hugo and", pos_slice=-1)


# --- refusals ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(lab: Lab) -> bezel.ActivationCache:
    return lab.bridge("e2b").run_with_cache(TOKENS)[1]


@pytest.mark.parametrize(
    ("tokens", "wrong", "message"),
    [
        (torch.tensor([1, 2, 3]), None, r"tokens is \[3\]"),
        (torch.ones(3, 2, 12, dtype=torch.int64), None, r"tokens is \[3, 2, 12\]"),
        (1.5, None, "integers"),
        (torch.tensor(True), None, "integers"),
        (160, None, "0 to 159"),
        (-1, None, "0 to 159"),
        (3, torch.tensor([3, 4]), "equal shapes"),
        ("Paris", None, "tokenizer"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(
    small: Any, tokens: Any, wrong: Any, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        small.logit_attrs(small.decompose_resid(), tokens, wrong)


def test_a_stack_cut_otherwise_than_the_scale_is_refused(small: Any) -> None:
    last = small.decompose_resid(pos_slice=-1)
    for stack in (last, small.decompose_resid()[:, :1], last[:, 0], last[:, :, None]):
        with pytest.raises(ArgumentError, match="pos_slice"):
            small.apply_ln_to_stack(stack)
    with pytest.raises(ArgumentError, match="batch axis"):
        small.apply_slice_to_batch_dim(0).apply_ln_to_stack(last, batch_slice=0, pos_slice=-1)


def test_what_shows_that_the_norm_is_linear_is_asked_for(lab: Lab) -> None:
    names = ["hook_full_embed", "blocks.*.hook_*_out", "blocks.7.hook_resid_post"]
    asked = r'names_filter=\["blocks.7.hook_resid_post", "ln_final.hook_scale", "ln_final.hook_n'
    _, cache = lab.bridge("e2b").run_with_cache(TOKENS, names)
    for ask in (
        lambda: cache.logit_attrs(cache.decompose_resid(), 3),
        lambda: cache.decompose_resid(apply_ln=True),
    ):
        with pytest.raises(UnknownHookError, match=asked):
            ask()
