"""What an SAE in the place of a value computes: exact, causal and differentiable."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bezel.errors import ArgumentError
from support import fixtures, saes
from support.compare import relative_rms
from support.hook_table import of_text
from support.lab import Lab
from support.saes import AT, POST, D

NAMES = tuple(fixtures.RECIPES)
TOKENS = fixtures.tokens(9)


def width_of(shape: tuple[int | None, ...], *, merged: bool) -> int | None:
    """d_in of an SAE at a value of this shape; heads together where merged."""
    last = shape[-1]
    if merged and last is not None and len(shape) > 3 and shape[-2] is not None:
        return last * shape[-2]
    return last


# --- the splice ----------------------------------------------------------------------------------


@pytest.mark.parametrize("merged", [False, True], ids=["last axis", "heads together"])
@pytest.mark.parametrize("name", NAMES)
def test_an_sae_fits_every_floating_value_and_its_error_term_restores_the_run(
    lab: Lab, name: str, merged: bool
) -> None:
    """Bit for bit, as far as the path is the same; without the term it is the reconstruction."""
    dtypes = {p.name: p.dtype for p in lab.bridge(name).plan((2, 9), lab.names(name)).values}
    bridge = lab.bridge(name, path="open" if merged else "automatic")
    _, cache = bridge.run_with_cache(TOKENS, lab.names(name))
    for i, point in enumerate(of_text(bridge.hook_points())):
        d_in = width_of(point.shape, merged=merged) or 9
        if not dtypes[point.name].is_floating_point or d_in > 200:
            continue
        kind = saes.ARCHITECTURES[i % len(saes.ARCHITECTURES)]
        sae = saes.random_sae(kind, d_in, point.name, d_sae=5)
        same = bridge.run_with_hooks(TOKENS, [sae.hook(use_error_term=True)])
        untouched = bridge.run_with_hooks(TOKENS, [(point.name, lambda x, hook: None)])
        assert torch.equal(same, untouched), point.name
        inside = f"{point.name}.hook_sae_input"
        _, got = bridge.run_with_cache_with_saes(TOKENS, [point.name, inside], saes=sae)
        flat = got[inside]
        assert flat.shape[-1] == d_in
        assert relative_rms(flat.flatten(), cache[point.name].flatten()) <= 1e-5, point.name
        # Where scores are masked it overflows.
        made, want = (x.flatten().nan_to_num(0, 0, 0) for x in (got[point.name], sae(flat)))
        assert relative_rms(made, want) <= 1e-5, point.name
    assert not bridge.acts_to_saes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("of_sae", [torch.float32, torch.bfloat16, torch.float64])
def test_the_error_term_is_exact_in_every_mixture_of_dtypes(
    lab: Lab, sae: Any, dtype: torch.dtype, of_sae: torch.dtype
) -> None:
    bridge = lab.bridge("e2b", path="open", dtype=dtype)
    other = saes.random_sae("standard", D, AT).to(of_sae)
    plain = bridge(TOKENS)
    assert torch.equal(bridge.run_with_saes(TOKENS, other, use_error_term=True), plain)
    assert not torch.equal(bridge.run_with_saes(TOKENS, other), plain)
    # also where a hook looks, and changes nothing
    hooks = [(POST, lambda f, hook: None)]
    looked = bridge.run_with_hooks_with_saes(
        TOKENS, saes=other, use_error_term=True, fwd_hooks=hooks
    )
    assert torch.equal(looked, plain)


def test_values_inside_are_kept_with_their_meaning(bridge: Any, sae: Any) -> None:
    _, cache = bridge.run_with_cache_with_saes(TOKENS, saes=[sae], use_error_term=True)
    x = bridge.run_with_cache(TOKENS, AT)[1][AT]
    got = {part: cache[f"{AT}.hook_sae_{part}"] for part in
           ("input", "acts_pre", "acts_post", "recons", "error", "output")}  # fmt: skip
    assert torch.equal(got["input"], x)
    features = [[saes.features_by_loops(sae, row) for row in rows] for rows in x.tolist()]
    torch.testing.assert_close(got["acts_post"], torch.tensor(features), rtol=1e-4, atol=1e-4)
    kept = got["acts_pre"].relu() * (got["acts_pre"] > sae.threshold)
    assert torch.equal(got["acts_post"], kept)
    torch.testing.assert_close(got["recons"], got["acts_post"] @ sae.W_dec + sae.b_dec)
    torch.testing.assert_close(got["recons"] + got["error"], x)
    assert torch.equal(got["output"], x)
    assert torch.equal(cache[AT], x)
    assert set(cache) - {f"{AT}.hook_sae_{part}" for part in got} == set(
        bridge.run_with_cache(TOKENS)[1]
    )
    assert not any(value.requires_grad for value in cache.values())


@pytest.mark.parametrize("part", ["input", "acts_pre", "acts_post", "recons", "error", "output"])
def test_each_value_inside_is_causal(bridge: Any, sae: Any, part: str) -> None:
    """What follows is what the formulas say about the edited value."""
    name = f"{AT}.hook_sae_{part}"

    def halve(value: torch.Tensor, hook: Any) -> torch.Tensor:
        return 0.5 * value

    x = bridge.run_with_cache(TOKENS, AT)[1][AT]
    clean = sae(x)
    want = {
        "input": lambda: sae(0.5 * x) + (x - clean),
        "acts_pre": lambda: (
            sae.decode(gated(0.5 * ((x - sae.b_dec) @ sae.W_enc + sae.b_enc))) + (x - clean)
        ),
        "acts_post": lambda: sae.decode(0.5 * sae.encode(x)) + (x - clean),
        "recons": lambda: 0.5 * clean + (x - clean),
        "error": lambda: clean + 0.5 * (x - clean),
        "output": lambda: 0.5 * x,
    }[part]()

    _, cache = bridge.run_with_cache_with_saes(
        TOKENS, [AT, name], saes=sae, use_error_term=True, fwd_hooks=[(name, halve)]
    )
    assert relative_rms(cache[AT], want) < 1e-5
    logits = bridge.run_with_hooks_with_saes(
        TOKENS, saes=sae, use_error_term=True, fwd_hooks=[(name, halve)]
    )
    by_hand = bridge.run_with_hooks(TOKENS, [(AT, lambda x, hook: want)])
    torch.testing.assert_close(logits, by_hand, rtol=1e-3, atol=1e-4)


def gated(pre: torch.Tensor) -> torch.Tensor:
    threshold = saes.random_sae("jumprelu", D).threshold
    return pre.relu() * (pre > threshold)


def test_hooks_of_the_value_see_what_the_sae_puts_out(bridge: Any, sae: Any) -> None:
    seen = {}
    hooks = [(AT, lambda x, hook: seen.update(x=x.clone()))]
    bridge.run_with_hooks_with_saes(TOKENS, saes=sae, fwd_hooks=hooks)
    x = bridge.run_with_cache(TOKENS, AT)[1][AT]
    torch.testing.assert_close(seen["x"], sae(x))


def test_a_hook_is_told_where_it_is(bridge: Any, sae: Any) -> None:
    seen: list[Any] = []

    def look(features: torch.Tensor, hook: Any) -> None:
        hook.ctx["n"] = hook.ctx.get("n", 0) + 1
        seen.append((hook.name, hook.layer(), hook.dir, hook.positions.tolist(), dict(hook.ctx)))

    hooks = [(POST, look), ("*.hook_sae_acts_post", look)]
    bridge.run_with_hooks_with_saes(TOKENS, saes=sae, fwd_hooks=hooks)
    first = (POST, 2, "fwd", [list(range(9))] * 2, {"n": 1})
    assert seen == [first, (*first[:4], {"n": 2})]


# --- gradients -----------------------------------------------------------------------------------


def test_the_gradient_of_features_is_the_slope_of_the_loss(lab: Lab) -> None:
    bridge = lab.bridge("e2b", path="open", dtype=torch.float64)
    sae = saes.random_sae("jumprelu", D, AT).double()
    arguments: dict[str, Any] = {"saes": sae, "use_error_term": True, "return_type": "loss"}
    parts = [POST, f"{AT}.hook_sae_error", f"{AT}.hook_sae_input"]
    _, cache = bridge.run_with_cache_with_saes(TOKENS, parts, incl_bwd=True, **arguments)
    gradient = cache[f"{POST}_grad"]
    along = gradient / gradient.norm()
    losses = [
        bridge.run_with_hooks_with_saes(
            TOKENS, fwd_hooks=[(POST, lambda f, hook, s=sign: f + s * 1e-6 * along)], **arguments
        ).item()
        for sign in (1, -1)
    ]
    slope = (losses[0] - losses[1]) / 2e-6
    assert slope == pytest.approx(gradient.norm().item(), rel=1e-6)
    out = cache[f"{AT}.hook_sae_error_grad"]
    torch.testing.assert_close(gradient, out @ sae.W_dec.T)
    # The error is a constant: only what the features carry passes on to the input.
    active = (cache[POST] > 0).double()
    torch.testing.assert_close(
        cache[f"{AT}.hook_sae_input_grad"], (gradient * active) @ sae.W_enc.T
    )


def test_gradients_reach_the_model_before_the_sae_and_its_own_weights(lab: Lab, sae: Any) -> None:
    bridge = lab.bridge("e2b", path="open")
    own = saes.random_sae("gated", D, AT).requires_grad_()
    logits, cache = bridge.run_with_cache_with_saes(
        TOKENS, ["hook_embed", POST], saes=own, incl_bwd=True
    )
    logits.square().sum().backward()  # later, by the caller
    assert cache["hook_embed_grad"].any()
    assert cache[f"{POST}_grad"].shape == (2, 9, 99)
    assert all(own.get_parameter(w).grad.any() for w in ("W_enc", "W_dec", "b_dec", "r_mag"))
    assert not bridge.run_with_saes(TOKENS, saes=sae).requires_grad


def test_a_backward_hook_replaces_the_gradient_of_features(bridge: Any, sae: Any) -> None:
    def run(change: Any) -> torch.Tensor:
        _, cache = bridge.run_with_cache_with_saes(
            TOKENS, [f"{AT}.hook_sae_input", POST], saes=sae, incl_bwd=True, return_type="loss",
            bwd_hooks=[(POST, change)],
        )  # fmt: skip
        return cache[f"{AT}.hook_sae_input_grad"]

    assert not run(lambda g, hook: 0 * g).any()
    torch.testing.assert_close(run(lambda g, hook: 3 * g), 3 * run(lambda g, hook: None))
    with torch.no_grad(), pytest.raises(ArgumentError, match="autograd is switched off"):
        bridge.run_with_hooks_with_saes(TOKENS, saes=sae, bwd_hooks=[(POST, print)])


def test_a_hook_behind_the_error_term_may_write_into_the_value(bridge: Any, sae: Any) -> None:
    """Also where gradients are asked for: what it writes into is no view of what came in."""

    def halve(x: torch.Tensor, hook: Any) -> None:
        x.mul_(0.5)

    arguments: dict[str, Any] = {"incl_bwd": True, "return_type": "loss"}
    with bridge.saes(sae, use_error_term=True), bridge.hooks([(AT, halve)]):
        loss, cache = bridge.run_with_cache(TOKENS, ["hook_embed", AT], **arguments)
    want, by_hand = bridge.run_with_cache(
        TOKENS, ["hook_embed", AT], fwd_hooks=[(AT, halve)], **arguments
    )
    assert torch.equal(loss, want)
    assert torch.equal(cache[AT], by_hand[AT])
    assert torch.equal(cache[f"{AT}_grad"], by_hand[f"{AT}_grad"])


def test_gradients_pass_between_a_model_and_an_sae_of_other_dtypes(lab: Lab) -> None:
    bridge = lab.bridge("e2b", path="open")
    own = saes.random_sae("standard", D, AT)
    inside = [POST, f"{AT}.hook_sae_error", f"{AT}.hook_sae_input"]
    found = []
    for sae in (own, saes.random_sae("standard", D, AT).double()):
        _, cache = bridge.run_with_cache_with_saes(
            TOKENS, inside, saes=sae, use_error_term=True, incl_bwd=True, return_type="loss"
        )
        found.append([cache[f"{name}_grad"] for name in inside])
        assert {gradient.dtype for gradient in found[-1]} == {sae.dtype}
    for single, double in zip(*found, strict=True):
        assert relative_rms(single.double(), double) <= 1e-4


def test_an_sae_as_a_hook_is_refused_where_values_are_integers(bridge: Any) -> None:
    sae = saes.random_sae("standard", 9, "hook_tokens")
    with pytest.raises(ArgumentError, match="hook_tokens.*int64"):
        bridge.run_with_hooks(TOKENS, [sae.hook()])


def test_features_are_kept_without_gradients_that_nobody_asked_for(bridge: Any, sae: Any) -> None:
    logits, cache = bridge.run_with_cache_with_saes(TOKENS, POST, saes=sae)
    assert not logits.requires_grad
    with torch.no_grad():
        _, again = bridge.run_with_cache_with_saes(TOKENS, POST, saes=sae)
    assert torch.equal(cache[POST], again[POST])
