"""trainable=True: every weight gathers the gradient that transformers gives it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bezel
from support import compare, exact, fixtures, reference
from support.lab import Lab

NAMES = tuple(fixtures.RECIPES)
TOKENS = fixtures.tokens(20)
OWN_ERRORS = 3.0  # as in test_gradients.py
ROUNDING = 1e-9  # in float64

Pieces = dict[str, list[torch.Tensor]]  # by slot: tensors that stand below each other in it


def trainable(lab: Lab, name: str, **arguments: Any) -> Any:
    arguments.setdefault("dtype", torch.float32)
    return bezel.Bridge.from_pretrained(lab.folder(name), trainable=True, **arguments)


def pieces_of_layer(layer: Any) -> Iterator[tuple[str, list[torch.Tensor]]]:
    attention, mlp = layer.self_attn, layer.mlp
    own = [] if attention.is_kv_shared_layer else [attention.k_proj, attention.v_proj]
    projections = [attention.q_proj, *(part for part in own if part is not None)]
    yield "attention.qkv", [projection.weight for projection in projections]
    yield "attention.out", [attention.o_proj.weight]
    yield "attention.q_norm", [attention.q_norm.weight]
    if own:
        yield "attention.k_norm", [attention.k_norm.weight]
    yield "mlp.gate_up", [mlp.gate_proj.weight, mlp.up_proj.weight]
    yield "mlp.down", [mlp.down_proj.weight]
    yield "ln1", [layer.input_layernorm.weight]
    yield "ln1_post", [layer.post_attention_layernorm.weight]
    yield "ln2", [layer.pre_feedforward_layernorm.weight]
    yield "ln2_post", [layer.post_feedforward_layernorm.weight]
    yield "layer_scalar", [layer.layer_scalar]
    if hasattr(layer, "router"):
        yield "moe.router_scale", [layer.router.scale]
        yield "moe.router", [layer.router.proj.weight]
        yield "moe.per_expert_scale", [layer.router.per_expert_scale]
        yield "moe.gate_up", [layer.experts.gate_up_proj]
        yield "moe.down", [layer.experts.down_proj]
        yield "moe.ln2_dense_post", [layer.post_feedforward_layernorm_1.weight]
        yield "moe.ln2_moe", [layer.pre_feedforward_layernorm_2.weight]
        yield "moe.ln2_moe_post", [layer.post_feedforward_layernorm_2.weight]
    if hasattr(layer, "per_layer_input_gate"):
        yield "ple.gate", [layer.per_layer_input_gate.weight]
        yield "ple.projection", [layer.per_layer_projection.weight]
        yield "ple.post_norm", [layer.post_per_layer_input_norm.weight]


def pieces_of(model: nn.Module) -> Pieces:
    """The reference's own tensors by the names of our slots."""
    text = exact.text_model_of(model)
    pieces = {"embed": [text.embed_tokens.weight], "ln_final": [text.norm.weight]}
    if hasattr(text, "embed_tokens_per_layer"):
        pieces["ple.table"] = [text.embed_tokens_per_layer.weight]
        pieces["ple.projection"] = [text.per_layer_model_projection.weight]
        pieces["ple.norm"] = [text.per_layer_projection_norm.weight]
    for i, layer in enumerate(text.layers):
        pieces |= {f"layers.{i}.{slot}": tensors for slot, tensors in pieces_of_layer(layer)}
    return pieces


def loss_of(logits: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())


def gradients_of_reference(model: nn.Module) -> Pieces:
    pieces = pieces_of(model)
    weights = [weight.requires_grad_() for tensors in pieces.values() for weight in tensors]
    with reference.Recorder(model, *TOKENS.shape).attached():  # exact attention in float64
        output: Any = model(input_ids=TOKENS, use_cache=False)
    gradients = iter(torch.autograd.grad(loss_of(output.logits), weights))
    for buffer in model.buffers():  # layer scalars: as they were, for other tests
        buffer.requires_grad_(False)
    return {slot: [next(gradients) for _ in tensors] for slot, tensors in pieces.items()}


def pieces_like(joint: torch.Tensor, like: list[torch.Tensor]) -> list[torch.Tensor]:
    return list(joint.split([piece.shape[0] for piece in like]))


def sizes(lab: Lab, name: str) -> dict[str, float]:
    """The norm of what a layer scalar's gradient sums: the norms after it leave next to nothing."""
    bridge = lab.bridge(name, path="open", dtype=torch.float64)
    logits, cache = bridge.run_with_cache(TOKENS, "blocks.*.hook_resid_post", incl_bwd=True)
    loss_of(logits).backward()
    found = {}
    for slot, weight in bridge.named_weights():
        if slot.endswith("layer_scalar"):
            at = f"blocks.{slot.split('.')[1]}.hook_resid_post"
            found[slot] = float((cache[at] * cache[at + "_grad"]).norm() / weight.abs())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_gets_the_gradient_of_the_reference(lab: Lab, name: str) -> None:
    """Joint matrices piece by piece."""
    want = gradients_of_reference(lab.reference(name))
    true = gradients_of_reference(lab.oracle(name))
    size_of = sizes(lab, name)

    def gap(slot: str, got: torch.Tensor, right: torch.Tensor) -> float:
        size = size_of.get(slot) or right.double().norm()
        return float((got.double() - right.double()).norm() / size)

    runs = [("automatic", torch.float32), ("open", torch.float32), ("open", torch.float64)]
    for path, dtype in runs:
        bridge = trainable(lab, name, path=path, dtype=dtype)
        loss_of(bridge(TOKENS)).backward()
        weights = dict(bridge.named_weights())
        towers = [slot for slot in weights if slot.startswith(("vision.", "audio."))]
        assert all(weights.pop(slot).grad is None for slot in towers)  # no media, no gradient
        assert set(weights) == set(want)
        for slot, weight in weights.items():
            assert weight.grad is not None, slot
            parts = pieces_like(weight.grad, want[slot])
            for mine, theirs, right in zip(parts, want[slot], true[slot], strict=True):
                if dtype == torch.float64:
                    assert gap(slot, mine, right) <= ROUNDING, slot
                    continue
                gate = max(compare.RELATIVE_RMS, OWN_ERRORS * gap(slot, theirs, right))
                assert gap(slot, mine, theirs) <= gate, (path, slot)


@pytest.mark.parametrize("name", ["e2b", "moe"])
def test_a_weights_gradient_is_the_slope_of_the_loss(lab: Lab, name: str) -> None:
    bridge = trainable(lab, name, path="open", dtype=torch.float64)
    bridge(TOKENS, return_type="loss").backward()
    step = 1e-5
    for slot, weight in bridge.named_weights():
        along = weight.grad / weight.grad.norm()
        losses = []
        with torch.no_grad():
            for sign in (1, -2, 1):  # forth, back, home
                weight += sign * step * along
                losses.append(bridge(TOKENS, return_type="loss").item())
        slope = (losses[0] - losses[1]) / (2 * step)
        assert slope == pytest.approx(weight.grad.norm().item(), rel=1e-5, abs=1e-9), slot


@pytest.mark.parametrize("name", ["e2b", "moe", "twelve_b"])
def test_steps_of_an_optimizer_train_the_model_as_they_train_the_reference(
    lab: Lab, name: str
) -> None:
    """In float64: in float32 a step amplifies what rounding leaves."""
    options = {"path": "open", "dtype": torch.float64}
    model = exact.exact(lab.reference(name))
    theirs = [weight.requires_grad_() for part in pieces_of(model).values() for weight in part]
    bridge = trainable(lab, name, **options)
    before = bridge(TOKENS).detach()
    ours = [weight for _, weight in bridge.named_weights()]
    optimizers = [torch.optim.SGD(weights, lr=3e-3) for weights in (theirs, ours)]

    def of_reference() -> torch.Tensor:
        with reference.Recorder(model, *TOKENS.shape).attached():
            output: Any = model(input_ids=TOKENS, use_cache=False)
        return output.logits

    losses = []
    for _ in range(3):
        losses.append(loss_of(bridge(TOKENS)))
        for loss, optimizer in zip((loss_of(of_reference()), losses[-1]), optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses[2] < losses[0]
    with torch.no_grad():
        want, got = of_reference(), bridge(TOKENS)
    assert compare.relative_rms(got, before) > 1e-3
    assert compare.relative_rms(got, want) <= ROUNDING
    assert torch.equal(lab.bridge(name, **options)(TOKENS), before)  # other Bridges
    assert torch.equal(trainable(lab, name, **options)(TOKENS), before)  # the files


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_frozen_by_default(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name)
    assert not any(weight.requires_grad for _, weight in bridge.named_weights())
    assert not bridge(TOKENS).requires_grad
    bridge.run_with_cache(TOKENS, "hook_embed", incl_bwd=True, return_type="loss")
    assert all(weight.grad is None for _, weight in bridge.named_weights())
    assert not any(weight.requires_grad for _, weight in bridge.named_weights())


def test_trainable_weights_are_the_models_own_leaves(lab: Lab) -> None:
    bridge = trainable(lab, "e2b")
    for (slot, weight), (_, again) in zip(
        bridge.named_weights(), bridge.named_weights(), strict=True
    ):
        assert (weight.is_leaf, weight.requires_grad) == (True, True), slot
        assert weight is again
    with torch.no_grad():
        assert not bridge(TOKENS).requires_grad
    assert bridge(TOKENS).requires_grad


def test_trainable_weights_change_no_result(lab: Lab) -> None:
    """Not a value, and not a gradient at a name."""
    frozen, bridge = lab.bridge("e2b", path="open"), trainable(lab, "e2b", path="open")
    loss, want = frozen.run_with_cache(TOKENS, incl_bwd=True, return_type="loss")
    mine, cache = bridge.run_with_cache(TOKENS, incl_bwd=True, return_type="loss")
    assert torch.equal(mine, loss)
    assert set(cache) == set(want)
    for name, value in want.items():
        assert torch.equal(cache[name], value), name
        assert not cache[name].requires_grad
    assert all(weight.grad is not None for _, weight in bridge.named_weights())


def test_a_backward_hook_changes_the_gradients_of_the_weights_before_it(lab: Lab) -> None:
    bridge = trainable(lab, "mha")
    weights = dict(bridge.named_weights())
    watched = [f"layers.{i}.attention.out" for i in range(4)]

    def gradients(**arguments: Any) -> list[torch.Tensor]:
        loss = bridge.run_with_hooks(TOKENS, return_type="loss", **arguments)
        return list(torch.autograd.grad(loss, [weights[slot] for slot in watched]))

    plain = gradients()
    stream = "blocks.2.hook_resid_pre"
    doubled = gradients(bwd_hooks=[(stream, lambda g, hook: 2 * g)])
    for i, (got, want) in enumerate(zip(doubled, plain, strict=True)):
        torch.testing.assert_close(got, want * (2 if i < 2 else 1))
    cut = gradients(bwd_hooks=[(stream, lambda g, hook: torch.zeros_like(g))])
    assert [bool(gradient.any()) for gradient in cut] == [False, False, True, True]
    detached = gradients(fwd_hooks=[("blocks.2.attn.hook_z", lambda z, hook: 0 * z.detach())])
    assert [bool(gradient.any()) for gradient in detached] == [True, True, False, True]
