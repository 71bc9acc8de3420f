"""A folded copy gives the same logits, has gains of 1, and leaves the original alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import bezel
from bezel import _C
from bezel.errors import ArgumentError, ModelMismatchError
from support import fixtures
from support.compare import relative_rms
from support.lab import Lab

NAMES = tuple(fixtures.RECIPES)
TOKENS = fixtures.tokens(20)
FOLDED = ("w_ln1", "w_ln2", "w_ln2_moe", "router_scales", "w_ln_final")
KEPT = ("w_ln1_post", "w_ln2_post", "w_q_norm", "w_k_norm", "w_ln2_dense_post", "w_ln2_moe_post",
        "w_ple_post", "w_ple_norm", "layer_scalars", "expert_scales", "W_E", "W_O", "W_out",
        "W_PLE_gate", "W_PLE")  # fmt: skip


def snapshot(bridge: Any) -> dict[str, torch.Tensor]:
    return {name: w.clone() for name, w in bridge.named_weights()}


@pytest.mark.parametrize("name", NAMES)
def test_a_folded_copy_gives_the_same_logits(lab: Lab, name: str) -> None:
    for dtype, gate in ((torch.float32, 1e-5), (torch.float64, 1e-13)):
        bridge = lab.bridge(name, dtype=dtype)
        before, want = snapshot(bridge), bridge(TOKENS)
        folded = bridge.folded()
        assert relative_rms(folded(TOKENS), want) <= gate
        assert torch.equal(bridge(TOKENS), want)
        assert all(torch.equal(w, before[slot]) for slot, w in bridge.named_weights())


@pytest.mark.parametrize("name", NAMES)
def test_every_gain_that_can_be_is_folded_and_the_others_are_kept(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name)
    folded = bridge.folded()
    for gain in FOLDED:
        if hasattr(bridge, gain):
            assert torch.equal(getattr(folded, gain), torch.ones_like(getattr(bridge, gain)))
            assert not torch.equal(getattr(folded, gain), getattr(bridge, gain))
    for kept in KEPT:
        if hasattr(bridge, kept):
            pairs = zip(getattr(bridge, kept), getattr(folded, kept), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_normalized_streams_times_folded_weights_are_the_originals_values(
    lab: Lab, name: str
) -> None:
    bridge = lab.bridge(name, path="open", dtype=torch.float64)
    _, cache = bridge.run_with_cache(TOKENS)
    folded = bridge.folded()
    for layer in range(bridge.cfg.n_layers):
        x = cache["normalized", layer, "ln1"]
        torch.testing.assert_close(x @ folded.W_Q[layer][1], cache["q", layer][:, :, 1])
        x = cache["normalized", layer, "ln2"]
        torch.testing.assert_close(x @ folded.W_in[layer], cache["pre_linear", layer])
        if bridge.cfg.layers[layer].attention.donor is None:
            x = cache["normalized", layer, "ln1"]
            torch.testing.assert_close(x @ folded.W_V[layer][0], cache["v", layer][:, :, 0])
    last = cache["ln_final.hook_normalized"]
    torch.testing.assert_close(last @ folded.W_U, cache["hook_unembed"])


def test_an_untied_head_is_folded_too(lab: Lab) -> None:
    bridge = lab.bridge("e2b", "untied")
    assert relative_rms(bridge.folded()(TOKENS), bridge(TOKENS)) <= 1e-5


def test_a_folded_copy_can_be_folded_again(lab: Lab) -> None:
    folded = lab.bridge("wrapped_moe").folded()
    assert torch.equal(folded.folded()(TOKENS), folded(TOKENS))


def test_a_copy_says_what_it_is(lab: Lab) -> None:
    bridge = lab.bridge("e2b", path="open", tokenizer="its own")
    folded = bridge.folded()
    assert isinstance(folded, bezel.Bridge)
    assert folded.tokenizer == "its own"
    assert folded._path == bridge._path
    assert "e2b, folded" in repr(folded)
    assert bridge.cfg.tied_head
    assert not folded.cfg.tied_head
    assert folded.n_parameters == bridge.n_parameters + 160 * 48


def test_writing_into_a_copy_leaves_the_original_alone(lab: Lab) -> None:
    bridge = lab.bridge("moe")
    want, folded = bridge(TOKENS), bridge.folded()
    for _, w in folded.named_weights():
        w.zero_()
    assert torch.equal(bridge(TOKENS), want)


def test_a_sharing_copy_shares_what_folding_leaves_alone(lab: Lab) -> None:
    bridge = lab.bridge("moe")
    folded = bridge.folded(share_unchanged=True)
    want = {slot: w.data_ptr() for slot, w in bridge.named_weights()}
    shared = {slot for slot, w in folded.named_weights() if w.data_ptr() == want.get(slot)}
    assert {"embed", "layers.3.attention.out", "layers.3.mlp.down"} <= shared
    assert not shared & {
        "ln_final",
        "layers.3.ln1",
        "layers.3.attention.qkv",
        "layers.3.moe.router",
    }
    assert torch.equal(folded(TOKENS), bridge.folded()(TOKENS))


def test_bfloat16_products_are_rounded_once(lab: Lab) -> None:
    bridge = lab.bridge("e2b", dtype=torch.bfloat16)
    exact = bridge.W_U.double() * bridge.w_ln_final.double()[:, None]
    assert torch.equal(bridge.folded().W_U, exact.bfloat16())


def test_a_copy_of_a_trained_model_is_frozen(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    _, gain = bridge.named_weights()[-1]
    gain.requires_grad_()
    try:
        assert not any(w.requires_grad for _, w in bridge.folded().named_weights())
    finally:
        gain.requires_grad_(False)


def test_replacements_must_fit(lab: Lab) -> None:
    core = lab.bridge("e2b")._core
    with pytest.raises(ArgumentError, match="weight layers.9.ln1 is not"):
        _C.with_weights(core, {"layers.9.ln1": torch.ones(48)})
    with pytest.raises(ModelMismatchError, match="weight ln_final"):
        _C.with_weights(core, {"ln_final": torch.ones(47)})
    embed = 2 * core.named_weights()[0][1]
    assert torch.equal(
        dict(_C.with_weights(core, {"embed": embed}).named_weights())["embed"], embed
    )
