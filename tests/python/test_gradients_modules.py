"""A user's own module inside a hook is trained through a frozen model, as transformers would."""

from __future__ import annotations

import copy
import itertools
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from support import compare, exact, fixtures, reference
from support.lab import Lab

NAMES = tuple(fixtures.RECIPES)
LENGTH = 12
TOKENS = fixtures.tokens(LENGTH)
OTHER = fixtures.tokens(LENGTH, seed=4)
AMPLIFIED = 10.0  # the reference's own float32 gradients are off by 2 gates at the worst
ROUNDING = 1e-9  # in float64


class Rotation(nn.Module):
    """Swaps a learned subspace for that of another run: distributed alignment search."""

    def __init__(self, width: int, source: torch.Tensor, n_directions: int = 5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.log = nn.Parameter(0.2 * torch.randn(width, width, generator=generator))
        self.n_directions = n_directions
        self.register_buffer("source", source)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        basis = torch.linalg.matrix_exp(self.log - self.log.T)[:, : self.n_directions]
        return x + (self.source - x) @ basis @ basis.T


class Autoencoder(nn.Module):
    """Stands in for the value by its sparse reconstruction."""

    def __init__(self, width: int, source: torch.Tensor) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.3 * torch.randn(*shape, generator=generator))

        self.encoder, self.encoder_bias = weight(width, 2 * width), weight(2 * width)
        self.decoder, self.decoder_bias = weight(2 * width, width), weight(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = F.gelu((x - self.decoder_bias) @ self.encoder + self.encoder_bias)
        return features @ self.decoder + self.decoder_bias


class Scaled(nn.Module):
    def __init__(self, by: torch.Tensor) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.by


MODULES = {"rotation": Rotation, "autoencoder": Autoencoder}


def at_output(layer: Any, module: nn.Module) -> Any:
    return layer.register_forward_hook(lambda _, args, out: module(out))


def at_mlp_out(layer: Any, module: nn.Module) -> Any:
    return at_output(layer.post_feedforward_layernorm, module)


def at_z(layer: Any, module: nn.Module) -> Any:
    return layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args: (module(args[0]),))


# (the row, how it is reached in a layer of transformers)
PLACES: dict[str, tuple[str, Callable[[Any, nn.Module], Any]]] = {
    "stream": ("hook_resid_post", at_output),
    "mlp_out": ("hook_mlp_out", at_mlp_out),
    "z": ("attn.hook_z", at_z),
}


def loss_of(logits: torch.Tensor, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def gradients_of(module: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(module.parameters())))


def by_reference(
    model: nn.Module, tokens: torch.Tensor, attach: Any, module: nn.Module
) -> list[torch.Tensor]:
    """Gradients of a module at block 1."""
    handle = attach(exact.text_model_of(model).layers[1], module)
    try:
        with reference.Recorder(model, *tokens.shape).attached():  # exact attention in float64
            output: Any = model(input_ids=tokens, use_cache=False)
    finally:
        handle.remove()
    return gradients_of(module, loss_of(output.logits, tokens))


def hook_with(module: nn.Module) -> Any:
    """The module sees heads side by side, as o_proj does."""

    def hook(value: torch.Tensor, hook: Any) -> torch.Tensor:
        batch, length, *rest = value.shape
        flat = value.reshape(batch, length, -1)
        return module(flat).reshape(batch, length, *rest)

    return hook


def module_at(bridge: Any, name: str, kind: str) -> nn.Module:
    source = bridge.run_with_cache(OTHER, name)[1][name].flatten(2)
    return MODULES[kind](source.shape[-1], source).to(source.dtype)


def errors(got: list[torch.Tensor], want: list[torch.Tensor]) -> list[float]:
    return [compare.relative_rms(mine, right) for mine, right in zip(got, want, strict=True)]


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("name", NAMES)
def test_a_module_in_a_hook_gets_the_gradients_of_the_reference(
    lab: Lab, name: str, kind: str
) -> None:
    """To rounding in float64; in float32 the median, for backward amplifies now and then."""
    gaps: dict[str, list[float]] = {"automatic": [], "open": []}
    for (row, attach), seed in itertools.product(PLACES.values(), range(3)):
        at, tokens = f"blocks.1.{row}", fixtures.tokens(LENGTH, seed=seed)
        module = module_at(lab.bridge(name), at, kind)
        want = by_reference(lab.reference(name), tokens, attach, module)
        for path in ("automatic", "open"):
            bridge = lab.bridge(name, path=path)
            logits = bridge.run_with_hooks(tokens, [(at, hook_with(module))])
            gaps[path] += errors(gradients_of(module, loss_of(logits, tokens)), want)
        wide = copy.deepcopy(module).double()
        bridge = lab.bridge(name, path="open", dtype=torch.float64)
        with bridge.hooks([(at, hook_with(wide))]):
            got = gradients_of(wide, loss_of(bridge(tokens), tokens))
        true = by_reference(lab.oracle(name), tokens, attach, wide)
        assert max(errors(got, true)) <= ROUNDING, at
    for path in ("automatic", "open"):
        assert statistics.median(gaps[path]) <= compare.RELATIVE_RMS, path
        assert max(gaps[path]) <= AMPLIFIED * compare.RELATIVE_RMS, path


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("name", NAMES)
def test_a_modules_gradient_is_the_slope_of_the_loss(lab: Lab, name: str, kind: str) -> None:
    """Also where transformers has no such value."""
    bridge = lab.bridge(name, path="open", dtype=torch.float64)
    for at in ("blocks.1.attn.hook_rot_q", "blocks.1.hook_mlp_in", "blocks.0.attn.hook_result"):
        module = module_at(bridge, at, kind)
        hooks = [(at, hook_with(module))]

        def loss(hooks: Any = hooks) -> torch.Tensor:
            return loss_of(bridge.run_with_hooks(TOKENS, hooks))

        for parameter, gradient in zip(
            module.parameters(), gradients_of(module, loss()), strict=True
        ):
            along = gradient / gradient.norm()
            step = 1e-5
            losses = []
            with torch.no_grad():
                for sign in (1, -2, 1):  # forth, back, home
                    parameter += sign * step * along
                    losses.append(loss().item())
            slope = (losses[0] - losses[1]) / (2 * step)
            assert slope == pytest.approx(gradient.norm().item(), rel=1e-5, abs=1e-10), at


@pytest.mark.parametrize("where", ["call", "context", "standing"])
def test_a_module_learns_wherever_its_hook_is_registered(lab: Lab, where: str) -> None:
    bridge = lab.bridge("e2b")
    at = "blocks.2.hook_resid_post"
    module = module_at(bridge, at, "autoencoder")
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    if where == "standing":
        bridge.add_hook(at, hook_with(module))
    losses = []
    try:
        for _ in range(8):
            if where == "context":
                with bridge.hooks([(at, hook_with(module))]):
                    loss = bridge(TOKENS, return_type="loss")
            else:
                hooks = [(at, hook_with(module))] if where == "call" else []
                loss = bridge.run_with_hooks(TOKENS, hooks, return_type="loss")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    finally:
        bridge.reset_hooks()
    assert losses[-1] < losses[0] - 0.05
    assert all(not weight.requires_grad for _, weight in bridge.named_weights())


def test_what_is_kept_behind_a_module_is_detached(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    at = "blocks.1.hook_resid_post"
    module = module_at(bridge, at, "autoencoder")
    names = [at, "blocks.2.attn.hook_z", "hook_logits"]
    logits, cache = bridge.run_with_cache(TOKENS, names, fwd_hooks=[(at, hook_with(module))])
    assert logits.requires_grad
    assert not any(value.requires_grad for value in cache.values())
    kept = {name: value.clone() for name, value in cache.items()}
    for value in cache.values():
        value.zero_()
    want = gradients_of(module, loss_of(logits))  # the graph does not see the write
    logits = bridge.run_with_hooks(TOKENS, [(at, hook_with(module))])
    assert all(map(torch.equal, gradients_of(module, loss_of(logits)), want))
    assert torch.equal(kept["hook_logits"], logits)


def test_a_module_gets_its_gradient_beside_those_that_are_recorded(lab: Lab) -> None:
    """Backward hooks and incl_bwd make leaves; they do not cut the way to the module."""
    bridge = lab.bridge("e2b", path="open")
    at = "blocks.1.hook_resid_post"
    module = module_at(bridge, at, "rotation")
    hooks = [(at, hook_with(module))]
    plain = gradients_of(module, loss_of(bridge.run_with_hooks(TOKENS, hooks)))
    logits, _ = bridge.run_with_cache(TOKENS, ["hook_embed", at], incl_bwd=True, fwd_hooks=hooks)
    got = torch.autograd.grad(loss_of(logits), list(module.parameters()))
    assert all(map(torch.equal, got, plain))
    twice = bridge.run_with_hooks(TOKENS, hooks, bwd_hooks=[(at, lambda g, hook: 2 * g)])
    got = torch.autograd.grad(loss_of(twice), list(module.parameters()))
    for mine, want in zip(got, plain, strict=True):
        torch.testing.assert_close(mine, 2 * want)


def in_place(value: torch.Tensor, hook: Any) -> None:
    value.mul_(0.5)
    value[:, 3] = 0


def returned(value: torch.Tensor, hook: Any) -> torch.Tensor:
    keep = torch.full_like(value, 0.5)
    keep[:, 3] = 0
    return value * keep


@pytest.mark.parametrize("after", [in_place, returned])
@pytest.mark.parametrize("name", ["e2b", "moe"])
def test_gradients_pass_through_the_hooks_behind_a_module(lab: Lab, name: str, after: Any) -> None:
    """At its own name and at later ones, written in place or returned; and into another module."""
    bridge = lab.bridge(name, path="open", dtype=torch.float64)
    at, later, stream = "blocks.1.attn.hook_z", "blocks.2.hook_mlp_out", "blocks.3.hook_resid_post"
    first, second = module_at(bridge, at, "rotation"), module_at(bridge, stream, "autoencoder")
    both = nn.ModuleList([first, second])
    oracle = lab.oracle(name)
    layers = exact.text_model_of(oracle).layers
    keep = torch.full((LENGTH, 1), 0.5, dtype=torch.float64)
    keep[3] = 0
    scaled = Scaled(keep)
    handles = [
        *(at_z(layers[1], module) for module in (first, scaled)),
        *(at_mlp_out(layers[2], scaled), at_output(layers[3], second)),
    ]
    try:
        with reference.Recorder(oracle, *TOKENS.shape).attached():
            output: Any = oracle(input_ids=TOKENS, use_cache=False)
        want = gradients_of(both, loss_of(output.logits))
    finally:
        for handle in handles:
            handle.remove()
    hooks = [(at, hook_with(first)), (at, after), (later, after), (stream, hook_with(second))]
    logits = bridge.run_with_hooks(TOKENS, hooks)
    assert compare.relative_rms(logits.detach(), output.logits.detach()) <= ROUNDING
    assert max(errors(gradients_of(both, loss_of(logits)), want)) <= ROUNDING
