"""Runs that begin or end in the middle, against the whole run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bezel.errors import ArgumentError, HookNeverFiredError
from support import compare, fixtures, reference
from support.lab import Lab

NAMES = tuple(fixtures.RECIPES)
LENGTH = 13
TOKENS = fixtures.tokens(LENGTH)
MASK = torch.ones(2, LENGTH, dtype=torch.int64)
MASK[1, :4] = 0


def state_for(cache: Any, bridge: Any, start: int) -> dict[str, torch.Tensor]:
    """What a run from block `start` needs beside the stream, as the error messages ask for it."""
    state = {}
    for layer in bridge.cfg.layers[start:]:
        donor = layer.attention.donor
        if donor is not None and donor < start:
            for part in ("rot_k", "v_normed"):
                name = f"blocks.{donor}.attn.hook_{part}"
                state[name] = cache[name]
    return state


@pytest.mark.parametrize("path", ["automatic", "open"])
@pytest.mark.parametrize("name", NAMES)
def test_starting_at_each_block_gives_the_bits_of_the_whole_run(
    lab: Lab, name: str, path: str
) -> None:
    bridge = lab.bridge(name, path=path)
    asked = {"attention_mask": MASK}
    want = bridge(TOKENS, **asked)
    _, cache = bridge.run_with_cache(TOKENS, **asked)
    for start in range(bridge.cfg.n_layers):
        stream = cache["resid_pre", start]
        if path == "automatic":  # the stream of a run that opens nothing
            stream = bridge(TOKENS, stop_at_layer=start, **asked) if start else cache["full_embed"]
        got = bridge(
            stream,
            start_at_layer=start,
            tokens=TOKENS,
            start_state=state_for(cache, bridge, start),
            **asked,
        )
        valid = MASK.bool()
        if path == "open":
            assert torch.equal(got, want), start
        assert (got - want)[valid].abs().max() <= compare.logits_gate(want), start


@pytest.mark.parametrize("name", ["e2b", "e4b", "wrapped_e2b"])
def test_the_whole_cache_serves_as_the_state(lab: Lab, name: str) -> None:
    """Then nothing needs the ids: the per-layer embeddings are in it."""
    bridge = lab.bridge(name, path="open")
    logits, cache = bridge.run_with_cache(TOKENS)
    for start in range(1, bridge.cfg.n_layers):
        stream = cache["resid_pre", start]
        assert torch.equal(bridge(stream, start_at_layer=start, start_state=cache), logits)


def test_a_negative_start_counts_from_the_end(lab: Lab) -> None:
    bridge = lab.bridge("mha")
    stream = bridge.run_with_cache(TOKENS)[1]["resid_pre", -2]
    assert torch.equal(bridge(stream, start_at_layer=-2), bridge(stream, start_at_layer=2))


@pytest.mark.parametrize("name", NAMES)
def test_stopping_at_each_block_gives_the_stream_that_enters_it(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name, path="open")
    _, cache = bridge.run_with_cache(TOKENS)
    for stop in range(1, bridge.cfg.n_layers):
        assert torch.equal(bridge(TOKENS, stop_at_layer=stop), cache["resid_pre", stop])
        assert torch.equal(
            bridge(TOKENS, stop_at_layer=stop - bridge.cfg.n_layers), cache["resid_pre", stop]
        )
    assert torch.equal(bridge(TOKENS, stop_at_layer=0), cache["full_embed"])
    last = bridge.cfg.n_layers
    assert torch.equal(bridge(TOKENS, stop_at_layer=last), bridge(TOKENS))


def test_start_and_stop_together_run_the_blocks_between(lab: Lab) -> None:
    bridge = lab.bridge("e2b", path="open")
    _, whole = bridge.run_with_cache(TOKENS)
    stream, cache = bridge.run_with_cache(
        whole["resid_pre", 2], start_at_layer=2, stop_at_layer=5, tokens=TOKENS
    )
    assert torch.equal(stream, whole["resid_pre", 5])
    layers = {int(name.split(".")[1]) for name in cache if name.startswith("blocks")}
    assert layers == {2, 3, 4}
    assert {name for name in cache if not name.startswith("blocks")} == {
        "hook_tokens",
        "ple.hook_token",
        "ple.hook_context",
        "ple.hook_inputs",
    }
    for name, value in cache.items():
        if name != "ple.hook_context" and name != "ple.hook_inputs":
            assert torch.equal(value, whole[name]), name


def test_the_stream_at_its_start_has_gradients(lab: Lab) -> None:
    """blocks.2.hook_resid_pre of a run that begins there is a leaf; its gradient is the run's."""
    bridge = lab.bridge("mha", path="open")
    name = "blocks.2.hook_resid_pre"
    _, whole = bridge.run_with_cache(TOKENS, name, incl_bwd=True, return_type="loss")
    _, part = bridge.run_with_cache(
        whole[name], name, incl_bwd=True, return_type="loss", start_at_layer=2, tokens=TOKENS
    )
    torch.testing.assert_close(part[name + "_grad"], whole[name + "_grad"])


# What blocks 4 to 7 of e2b take from blocks before them.
STATE_OF_E2B = [f"blocks.{i}.attn.hook_{part}" for i in (2, 3) for part in ("rot_k", "v_normed")]

# --- what is missing, or does not fit ------------------------------------------------------------


def test_a_missing_state_is_named_with_the_reason(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    _, cache = bridge.run_with_cache(TOKENS)
    state = state_for(cache, bridge, 4)
    assert sorted(state) == STATE_OF_E2B
    for missing in state:
        rest = {name: value for name, value in state.items() if name != missing}
        with pytest.raises(ArgumentError, match=missing.replace(".", r"\.")) as caught:
            bridge(cache["resid_pre", 4], start_at_layer=4, tokens=TOKENS, start_state=rest)
        assert "start_state" in str(caught.value)
        assert f"block {missing[7]}" in str(caught.value)


def test_missing_ids_are_named(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    stream = torch.randn(2, LENGTH, 48)
    with pytest.raises(ArgumentError, match=r"give tokens.*ple\.hook_inputs"):
        bridge(stream, start_at_layer=1)
    with pytest.raises(ArgumentError, match=r"give tokens.*ple\.hook_inputs"):
        bridge(stream)
    assert lab.bridge("twelve_b")(torch.randn(2, LENGTH, 32)).shape == (2, LENGTH, 160)


WRONG_STATES = {
    "another batch": lambda value: value[:1],
    "other positions": lambda value: value[:, :-1],
    "other heads": lambda value: torch.cat((value, value), dim=2),
    "another width": lambda value: value[..., :-1],
    "a dimension less": lambda value: value[0],
}


@pytest.mark.parametrize("kind", WRONG_STATES)
@pytest.mark.parametrize("name", ["ple.hook_inputs", *STATE_OF_E2B[1:3]])
def test_a_state_of_another_shape_is_refused_by_name(lab: Lab, name: str, kind: str) -> None:
    bridge = lab.bridge("e2b")
    _, cache = bridge.run_with_cache(TOKENS)
    state = dict(cache.items())
    state[name] = WRONG_STATES[kind](state[name])
    with pytest.raises(ArgumentError, match=name.replace(".", r"\.")):
        bridge(cache["resid_pre", 4], start_at_layer=4, start_state=state)


def test_a_state_in_another_dtype_is_taken_in_the_model_s(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    logits, cache = bridge.run_with_cache(TOKENS)
    wide = cache.to(dtype=torch.float64)
    got = bridge(wide["resid_pre", 4], start_at_layer=4, start_state=wide)
    assert (got - logits).abs().max() <= compare.logits_gate(logits)


BAD = {
    "start beyond": ({"start_at_layer": 9}, "start_at_layer is 9"),
    "start before": ({"start_at_layer": -9}, "start_at_layer is -9"),
    "stop beyond": ({"stop_at_layer": 9}, "stop_at_layer is 9"),
    "stop before start": ({"start_at_layer": 5, "stop_at_layer": 3}, "stop_at_layer 3"),
    "no logits": ({"logits_to_keep": 0}, "logits_to_keep is 0"),
    "too many logits": ({"logits_to_keep": LENGTH + 1}, f"logits_to_keep is {LENGTH + 1}"),
}


@pytest.mark.parametrize("kind", BAD)
def test_layers_and_positions_out_of_range_are_refused(lab: Lab, kind: str) -> None:
    arguments, message = BAD[kind]
    stream = torch.randn(2, LENGTH, 48)
    with pytest.raises(ArgumentError, match=message):
        lab.bridge("e2b")(stream, tokens=TOKENS, **arguments)


def test_ids_cannot_start_in_the_middle(lab: Lab) -> None:
    with pytest.raises(ArgumentError, match="start_at_layer needs the stream"):
        lab.bridge("e2b")(TOKENS, start_at_layer=2)


@pytest.mark.parametrize("kind", ["names_filter", "fwd_hooks", "bwd_hooks"])
@pytest.mark.parametrize(
    "name", ["blocks.5.attn.hook_z", "hook_logits", "ln_final.hook_scale", "blocks.[56].*"]
)
def test_a_hook_beyond_the_stop_never_fires_and_is_refused(lab: Lab, name: str, kind: str) -> None:
    value = name if kind == "names_filter" else [(name, lambda value, hook: None)]
    asked = {"names_filter": "hook_embed", kind: value}
    with pytest.raises(HookNeverFiredError, match="stop_at_layer"):
        lab.bridge("e2b").run_with_cache(TOKENS, **asked, stop_at_layer=5)


def test_a_hook_before_the_start_never_fires_and_is_refused(lab: Lab) -> None:
    bridge = lab.bridge("mha")
    stream = torch.randn(2, LENGTH, 40)
    for name in ("blocks.1.attn.hook_z", "hook_embed", "hook_tokens"):
        with pytest.raises(HookNeverFiredError, match="start_at_layer"):
            bridge.run_with_cache(stream, name, start_at_layer=2)


def test_a_glob_reaches_what_fires_and_leaves_the_rest(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    _, cache = bridge.run_with_cache(TOKENS, "blocks.*.attn.hook_z", stop_at_layer=3)
    assert list(cache) == [f"blocks.{i}.attn.hook_z" for i in range(3)]


# --- logits_to_keep, embeddings ------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_logits_to_keep_computes_the_last_positions_alone(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name)
    want, whole = bridge.run_with_cache(TOKENS)
    for keep in (1, 4, LENGTH):
        got, cache = bridge.run_with_cache(TOKENS, logits_to_keep=keep)
        assert got.shape[1] == keep
        torch.testing.assert_close(got, want[:, -keep:])
        for head in ("hook_unembed", "hook_logits"):
            assert cache[head].shape[1] == keep
        torch.testing.assert_close(cache["scale"], whole["scale"])
        assert list(cache) == list(whole)


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_stand_in_for_the_ids(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name, path="open")
    want, cache = bridge.run_with_cache(TOKENS)
    got, second = bridge.run_with_cache(cache["hook_embed"], tokens=TOKENS)
    assert torch.equal(got, want)
    assert list(second) == list(cache)


@pytest.mark.parametrize("name", NAMES)
def test_other_embeddings_give_the_reference_s_values(lab: Lab, name: str) -> None:
    """The per-layer embeddings take the ids from tokens= and the context from the embeddings."""
    model = lab.reference(name)
    points = [p for p in lab.points(name) if p.name not in ("hook_tokens", "hook_embed")]
    embeddings = lab.values(name, LENGTH)["hook_embed"].flip(-1)
    want = reference.capture(model, TOKENS, embeddings=embeddings)
    _, cache = lab.bridge(name).run_with_cache(embeddings, lab.names(name), tokens=TOKENS)
    assert not compare.disagreements(points, cache, want)
    assert torch.equal(cache["hook_embed"], embeddings)


def test_ids_beside_ids_are_refused(lab: Lab) -> None:
    with pytest.raises(ArgumentError, match="tokens="):
        lab.bridge("e2b")(TOKENS, tokens=TOKENS)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, LENGTH, 47), "d_model = 48"), ((LENGTH, 48), "batch pos d_model"), ((2, 0, 48), "batch")],
)
def test_embeddings_of_another_shape_are_refused(
    lab: Lab, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        lab.bridge("e2b")(torch.randn(shape), tokens=TOKENS)


def test_ids_that_do_not_fit_the_embeddings_are_refused(lab: Lab) -> None:
    with pytest.raises(ArgumentError, match="tokens is"):
        lab.bridge("e2b")(torch.randn(2, LENGTH, 48), tokens=TOKENS[:, :-1])
