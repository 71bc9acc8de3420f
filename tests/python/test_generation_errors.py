"""What a generation refuses, before it works; what stops it; what it leaves behind."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import bezel
from bezel.errors import ArgumentError, HookNotApplicableError, UnknownHookError
from support import compare, fixtures
from support.lab import Lab

NANO = Path(__file__).resolve().parents[1] / "data" / "nano"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "temperature 0": ({"temperature": 0.0}, "temperature is 0"),
    "temperature of text": ({"temperature": "hot"}, "temperature is 'hot'; wanted a number"),
    "top_k 0": ({"top_k": 0}, "top_k is 0"),
    "top_k of a half": ({"top_k": 2.5}, "top_k is 2.5; wanted an int"),
    "top_p 0": ({"top_p": 0.0}, "top_p is 0"),
    "top_p above 1": ({"top_p": 1.5}, "top_p is 1.5"),
    "repetition_penalty 0": ({"repetition_penalty": 0.0}, "repetition_penalty is 0"),
    "freq_penalty of text": ({"freq_penalty": "much"}, "freq_penalty is 'much'"),
    "a negative seed": ({"seed": -1}, "seed is -1"),
    "no new tokens": ({"max_new_tokens": 0}, "max_new_tokens is 0; wanted at least 1"),
    "negative new tokens": ({"max_new_tokens": -2}, "max_new_tokens is -2"),
    "half a token": ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5; wanted an int"),
    "eos of text": ({"eos_token_id": "x"}, "eos_token_id is ['x']; wanted an int or several"),
    "eos of texts": ({"eos_token_id": ["x"]}, "eos_token_id is"),
    "padding on the right": ({"padding_side": "right"}, "padding_side is 'right'"),
    "a filter without a cache": ({"names_filter": "hook_embed"}, "return_cache=True"),
    "return_type": ({"return_type": "logits"}, "return_type is 'logits'"),
    "text without a tokenizer": ({"return_type": "str"}, "tokenizer"),
    "stop strings without a tokenizer": ({"stop_strings": "x"}, "tokenizer"),
    "an empty stop string": ({"stop_strings": ["x", ""]}, "none empty"),
    "stop strings of ids": ({"stop_strings": [3]}, "stop_strings is"),
    "prepend_bos of ids": ({"prepend_bos": True}, "prepend_bos= says how text becomes tokens"),
    "a mask of another shape": ({"attention_mask": torch.ones(2, 5)}, "attention_mask is"),
    "positions of another shape": ({"position_ids": torch.arange(5)[None]}, "position_ids is"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_arguments_are_refused_before_work(lab: Lab, case: str) -> None:
    arguments, message = REFUSED[case]
    bridge, calls = lab.bridge("e2b"), []
    with bridge.hooks([("hook_embed", lambda value, hook: calls.append(1))]):
        with pytest.raises(ArgumentError) as caught:
            bridge.generate(fixtures.tokens(9), **arguments)
        streamable = {"return_type", "names_filter"}.isdisjoint(arguments)
        if streamable:
            with pytest.raises(ArgumentError):
                next(iter(bridge.generate_stream(fixtures.tokens(9), **arguments)))
    assert message in str(caught.value)
    assert not calls


@pytest.mark.parametrize("name", ["pos_slice", "start_at_layer", "kv_cache", "incl_bwd", "tokenz"])
def test_arguments_that_generate_does_not_know_are_refused(lab: Lab, name: str) -> None:
    with pytest.raises(TypeError, match=f"unknown argument '{name}'"):
        lab.bridge("e2b").generate(fixtures.tokens(9), **{name: 1})


def test_wrong_inputs_are_refused(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(9)
    with pytest.raises(ArgumentError, match="token ids"):
        bridge.generate(torch.zeros(1, 4, bridge.cfg.d_model))
    with pytest.raises(ArgumentError, match="tokenizer"):
        bridge.generate("some text")
    with pytest.raises(ArgumentError, match="tokens run from"):
        bridge.generate(tokens + 1000)


def test_prompts_padded_on_the_right_are_refused(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(9)
    mask = torch.ones_like(tokens)
    mask[1, 6:] = 0
    with pytest.raises(ArgumentError, match="pad on the left"):
        bridge.generate(tokens, attention_mask=mask)
    with pytest.raises(ArgumentError, match="pad on the left"):
        bridge.generate(tokens.masked_fill(mask == 0, 0))


def test_names_are_checked_before_work(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(9)
    with pytest.raises(UnknownHookError):
        bridge.generate(tokens, return_cache=True, names_filter="blocks.0.hook_resid")
    with pytest.raises(HookNotApplicableError):
        bridge.generate(tokens, return_cache=True, names_filter="blocks.7.attn.hook_k")


def test_backward_hooks_have_no_place_in_generation(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(9)
    with (
        bridge.hooks(bwd_hooks=[("hook_embed", lambda value, hook: None)]),
        pytest.raises(ArgumentError, match="gradients were asked for"),
    ):
        bridge.generate(tokens, 3)
    assert bridge.generate(tokens, 3, stop_at_eos=False).shape == (2, 12)


@pytest.mark.parametrize("cached", [True, False])
def test_no_graph_is_left(lab: Lab, cached: bool) -> None:
    """Nor where a hook brings a trained module into the run."""
    bridge = lab.bridge("e2b")
    module = torch.nn.Linear(bridge.cfg.d_model, bridge.cfg.d_model)
    with (
        torch.enable_grad(),
        bridge.hooks([("blocks.2.hook_resid_post", lambda x, hook: module(x))]),
    ):
        tokens, logits, cache = bridge.generate(
            fixtures.tokens(9), 5, output_logits=True, return_cache=True, stop_at_eos=False,
            use_past_kv_cache=cached,
        )  # fmt: skip
        assert torch.is_grad_enabled()
    for value in (tokens, logits, *cache.values()):
        assert value.grad_fn is None
        assert not value.requires_grad


def test_bfloat16_goes_on(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b", dtype=torch.bfloat16), fixtures.tokens(9, 4)
    got, logits = bridge.generate(tokens, 20, output_logits=True, stop_at_eos=False)
    assert got.shape == (4, 29)
    assert logits.dtype == torch.bfloat16
    exact = lab.bridge("e2b")(got[:, :-1])[:, 8:]
    one_run = bridge(got[:, :-1])[:, 8:]
    ours, theirs = compare.relative_rms(logits, exact), compare.relative_rms(one_run, exact)
    assert ours < 1.5 * theirs


def test_ctrl_c_stops_a_generation(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(9)
    want = bridge.generate(tokens, 3, stop_at_eos=False)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    steps: list[torch.Tensor] = []
    # A shell's background jobs ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            steps.extend(bridge.generate_stream(tokens, 10**6, stop_at_eos=False))
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert 0 < len(steps) < 10**6
    assert torch.equal(bridge.generate(tokens, 3, stop_at_eos=False), want)


def test_text_needs_no_mask_and_a_given_mask_wins() -> None:
    nano = bezel.Bridge.from_pretrained(NANO)
    tokens = nano.to_tokens(["A and B went", "C"], padding_side="left")
    want = nano.generate(tokens, 5, stop_at_eos=False)
    got = nano.generate(["A and B went", "C"], 5, stop_at_eos=False, return_type="tokens")
    assert torch.equal(got, want)
    everything = torch.ones_like(tokens)
    _, logits = nano.generate(tokens, 5, stop_at_eos=False, output_logits=True)
    _, other = nano.generate(
        tokens, 5, stop_at_eos=False, output_logits=True, attention_mask=everything
    )
    assert not torch.allclose(logits[1], other[1])
