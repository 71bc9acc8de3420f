"""An SAE computes what its paper says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import bezel
from bezel.errors import ArgumentError, ModelMismatchError, UnsupportedError
from support import saes

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("standard", {}),
    "standard, input as it is": ("standard", {"apply_b_dec_to_input": False}),
    "gated": ("gated", {}),
    "jumprelu": ("jumprelu", {"apply_b_dec_to_input": False}),
    "jumprelu, centred": ("jumprelu", {}),
    "topk": ("topk", {}),
    "topk of many": ("topk", {"k": 17}),  # negative ones among them
    "topk by norm": ("topk", {"rescale_acts_by_decoder_norm": True}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_features_and_reconstruction_are_those_of_the_papers_formulas(kind: str) -> None:
    architecture, fields = KINDS[kind]
    sae = saes.random_sae(architecture, 8, **fields).double()
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    features = sae.encode(x)
    by_loops = [[saes.features_by_loops(sae, row) for row in rows] for rows in x.tolist()]
    want = torch.tensor(by_loops, dtype=torch.float64)
    torch.testing.assert_close(features, want, rtol=1e-12, atol=1e-12)
    assert 0 < (features == 0).float().mean() < 1
    back = [[saes.reconstruction_by_loops(sae, f) for f in rows] for rows in by_loops]
    want = torch.tensor(back, dtype=torch.float64)
    torch.testing.assert_close(sae.decode(features), want, rtol=1e-12, atol=1e-12)
    assert torch.equal(sae(x), sae.decode(features))


def test_top_k_keeps_k_and_no_negative_one() -> None:
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    few = saes.random_sae("topk", 8, k=2).encode(x)
    assert (few != 0).sum(-1).max() == 2
    every = saes.random_sae("topk", 8, k=19).encode(x)
    assert every.min() == 0
    assert (every > 0).sum(-1).max() < 19


def test_a_feature_at_its_threshold_is_off() -> None:
    sae = saes.random_sae("jumprelu", 4)
    sae.b_enc.copy_(sae.threshold)
    sae.W_enc.zero_()
    assert not sae.encode(torch.ones(4)).any()


def test_an_sae_is_frozen_until_it_is_asked_to_learn() -> None:
    sae = saes.random_sae("gated", 4)
    assert not any(weight.requires_grad for weight in sae.parameters())
    sae.requires_grad_()
    sae(torch.ones(4)).sum().backward()
    assert sae.W_dec.grad.any()


def test_the_same_sae_at_another_place_shares_its_weights() -> None:
    sae = saes.random_sae("standard", 4, "blocks.1.hook_resid_post")
    other = sae.at("blocks.2.hook_resid_post")
    assert other.W_enc is sae.W_enc
    assert (sae.cfg.hook_name, other.cfg.hook_name) == (
        "blocks.1.hook_resid_post",
        "blocks.2.hook_resid_post",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("b_enc"), ['"b_enc" is missing', "standard", "[11]"]),
        (lambda w: w.update(W_dec=w["W_enc"]), ['"W_dec" is [4, 11]', "[11, 4]"]),
        (lambda w: w.update(threshold=w["b_enc"]), ['"threshold" is no weight', "W_enc"]),
    ],
)
def test_weights_that_are_not_those_of_the_architecture_are_refused(
    change: Any, words: list[str]
) -> None:
    weights = dict(saes.random_sae("standard", 4).named_parameters())
    change(weights)
    with pytest.raises(ModelMismatchError) as caught:
        bezel.SAE(bezel.SAEConfig("standard", 4, 11), weights)
    assert all(word in str(caught.value) for word in words)


def test_an_unknown_architecture_and_an_impossible_k_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="temporal.*standard, topk, jumprelu, gated"):
        bezel.SAEConfig("temporal", 4, 11)  # type: ignore[arg-type]
    for k in (None, 0, 12):
        with pytest.raises(ModelMismatchError, match=f"k={k} of 11"):
            bezel.SAEConfig("topk", 4, 11, k=k)


def test_an_sae_without_a_place_says_how_to_give_it_one() -> None:
    with pytest.raises(ArgumentError, match="sae.at"):
        saes.random_sae("standard", 4).hook()
