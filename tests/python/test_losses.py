"""The loss of a run: of all logits or of chunks of them, the same number; and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bezel.errors import ArgumentError
from support.lab import Lab

MODELS = ("e2b", "moe", "nosoftcap", "unified", "mha")
RESID = "blocks.1.hook_resid_post"


@pytest.fixture(params=MODELS)
def bridge(request: Any, lab: Lab) -> Any:
    return lab.bridge(request.param)


def tokens_of(bridge: Any) -> torch.Tensor:
    return torch.randint(3, 60, (2, 23), generator=torch.Generator().manual_seed(1))


MASK = torch.ones(2, 23, dtype=torch.int64)
MASK[0, :5] = 0


def by_logits(bridge: Any, tokens: torch.Tensor, **arguments: Any) -> torch.Tensor:
    """In float64, of the very logits of a run."""
    logits = bridge(tokens, attention_mask=MASK).double()
    nats = -logits[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
    return nats * (MASK[:, :-1] & MASK[:, 1:])


def test_a_loss_is_that_of_the_logits(bridge: Any) -> None:
    tokens = tokens_of(bridge)
    want = by_logits(bridge, tokens)
    got = bridge(tokens, attention_mask=MASK, return_type="loss", loss_per_token=True)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    assert (got[want == 0] == 0).all()
    mean = bridge(tokens, attention_mask=MASK, return_type="loss")
    assert mean.item() == pytest.approx((want.sum() / (want != 0).sum()).item(), rel=1e-6)
    _, both = bridge(tokens, attention_mask=MASK, return_type="both")
    assert both.item() == pytest.approx(mean.item(), rel=1e-6)


def test_labels_that_are_ignored_count_nothing(bridge: Any) -> None:
    tokens = tokens_of(bridge)
    labels = tokens.clone()
    labels[1, 7:12] = -100
    want = by_logits(bridge, tokens)
    want[1, 6:11] = 0
    got = bridge(
        tokens, attention_mask=MASK, labels=labels, return_type="loss", loss_per_token=True
    )
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_open_path(lab: Lab) -> None:
    for name in MODELS:
        grads = {}
        for path, dtype in (("automatic", None), ("open", torch.float64)):
            bridge = lab.bridge(name, path=path, dtype=dtype)
            tokens = tokens_of(bridge)
            _, cache = bridge.run_with_cache(
                tokens, RESID, attention_mask=MASK, incl_bwd=True, return_type="loss"
            )
            grads[path] = cache[f"{RESID}_grad"].double()
        far = (grads["automatic"] - grads["open"]).norm() / grads["open"].norm()
        assert far < 2e-5, name


def test_hooks_at_the_logits_act_on_the_loss(bridge: Any) -> None:
    tokens = tokens_of(bridge)
    plain = bridge(tokens, return_type="loss")
    for name in ("hook_unembed", "hook_logits"):
        hooks = [(name, lambda value, hook: value * 0)]
        flat = bridge.run_with_hooks(tokens, fwd_hooks=hooks, return_type="loss")
        assert flat.item() == pytest.approx(torch.tensor(bridge.cfg.d_vocab).log().item(), rel=1e-5)
        loss, cache = bridge.run_with_cache(tokens, name, return_type="loss")
        assert cache[name].shape == (*tokens.shape, bridge.cfg.d_vocab)
        assert loss.item() == pytest.approx(plain.item(), rel=1e-6)


def test_a_run_starts_its_graph_at_the_first_value_whose_gradient_is_asked(lab: Lab) -> None:
    """What stands before needs none, and makes none."""
    bridge = lab.bridge("e2b")
    last = f"blocks.{bridge.cfg.n_layers - 1}.hook_resid_post"
    seen = {}

    def note(value: torch.Tensor, hook: Any) -> None:
        seen[hook.name] = value.requires_grad

    bridge.run_with_hooks(
        tokens_of(bridge),
        fwd_hooks=[("blocks.0.hook_resid_post", note), ("ln_final.hook_normalized", note)],
        bwd_hooks=[(last, lambda gradient, hook: None)],
        return_type="loss",
    )
    assert seen == {"blocks.0.hook_resid_post": False, "ln_final.hook_normalized": True}


def test_second_derivatives_need_the_open_path(lab: Lab) -> None:
    for path in ("automatic", "open"):
        bridge = lab.bridge("e2b", path=path)
        embeddings = torch.randn(1, 6, bridge.cfg.d_model, requires_grad=True)
        tokens = torch.arange(3, 9)[None]
        loss = bridge(embeddings, tokens=tokens, return_type="loss")
        if path == "automatic":
            with pytest.raises(RuntimeError, match='path="open"'):  # through torch
                torch.autograd.grad(loss, embeddings, create_graph=True)
            continue
        (first,) = torch.autograd.grad(loss, embeddings, create_graph=True)
        assert torch.autograd.grad(first.pow(2).sum(), embeddings)[0].abs().max() > 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"stop_at_layer": 1}, "the loss needs logits, and stop_at_layer"),
        ({"logits_to_keep": 2}, "the logits of every position"),
        ({"labels": torch.zeros(2, 22, dtype=torch.int64)}, "labels are"),
        ({"labels": torch.full((2, 23), 10**6)}, "wanted token ids 0 to"),
        ({"labels": torch.full((2, 23), -100)}, "no pair of neighbouring valid tokens"),
    ],
)
def test_refusals(lab: Lab, arguments: dict[str, Any], why: str) -> None:
    bridge = lab.bridge("e2b")
    with pytest.raises(ArgumentError, match=why):
        bridge(tokens_of(bridge), return_type="loss", **arguments)
