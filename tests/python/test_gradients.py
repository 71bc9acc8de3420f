"""Gradients at every name: those of the reference, and the slope of the loss along an edit."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

import bezel
from bezel.errors import ArgumentError, HookNotApplicableError
from support import compare, fixtures, reference
from support.lab import Lab

NAMES = tuple(fixtures.RECIPES)
TOKENS = fixtures.tokens(20)
Z = "blocks.1.attn.hook_z"
OWN_ERRORS = 3.0  # backward amplifies: where the reference itself is off by more, that is the gate
LOSS_IN_FLOAT32 = 1e-6  # the reference computes the loss so, in float64 models too


@pytest.fixture(scope="module")
def bridge(lab: Lab) -> Any:
    return lab.bridge("e2b", path="open")


def gradients(bridge: Any, names: Any, **arguments: Any) -> dict[str, torch.Tensor]:
    _, cache = bridge.run_with_cache(TOKENS, names, incl_bwd=True, return_type="loss", **arguments)
    return {
        name.removesuffix("_grad"): value for name, value in cache.items() if name.endswith("_grad")
    }


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_the_reference(lab: Lab, name: str) -> None:
    want = reference.capture_gradients(lab.reference(name), TOKENS)
    exact = reference.capture_gradients(lab.oracle(name), TOKENS)
    assert len(want) >= 20 * lab.bridge(name).cfg.n_layers
    for path in ("automatic", "open"):
        got = gradients(lab.bridge(name, path=path), list(want))
        for key, value in want.items():
            own = compare.relative_rms(value, exact[key])
            gate = max(compare.RELATIVE_RMS, OWN_ERRORS * own)
            assert compare.relative_rms(got[key], value) <= gate, (path, key)
    got = gradients(lab.bridge(name, path="open", dtype=torch.float64), list(want))
    for key, value in exact.items():
        assert compare.relative_rms(got[key], value) <= LOSS_IN_FLOAT32, key


@pytest.mark.parametrize("name", NAMES)
def test_each_gradient_is_the_slope_of_the_loss_along_an_edit(lab: Lab, name: str) -> None:
    """Every name that holds floats, the on-demand ones too, in float64; elsewhere one in seven."""
    bridge = lab.bridge(name, path="open", dtype=torch.float64)
    # A copy of the stream takes its part of the model over, from ln1 on: alone, as in an edit.
    copies = [f"hook_{part}_input" for part in "qkv"]
    grads = gradients(bridge, [key for key in lab.names(name) if key.split(".")[-1] not in copies])
    for row in copies:
        grads |= gradients(bridge, f"blocks.*.{row}")
    floats = [key for key in lab.names(name) if key in grads]
    integers = set(lab.names(name)) - set(floats)
    assert {key.split(".")[-1] for key in integers} <= {"hook_tokens", "hook_expert_indices"}
    step = 1e-6 if name == "wrapped_moe" else 1e-5  # a longer one makes an expert take over
    rng = torch.Generator().manual_seed(0)
    for key in floats if name in ("e2b", "moe", "twelve_b") else floats[3::7]:
        gradient = grads[key]
        # Mostly along the gradient, so that the slope is well above rounding.
        along = gradient / gradient.norm()
        noise = torch.randn(gradient.shape, generator=rng, dtype=torch.float64)
        along = along + 0.5 * noise / noise.norm()
        losses = []
        for sign in (1, -1):
            hooks = [(key, lambda x, hook, change=sign * step * along: x + change)]
            losses.append(bridge.run_with_hooks(TOKENS, hooks, return_type="loss").item())
        slope = (losses[0] - losses[1]) / (2 * step)
        # abs: scales of ln1 have next to no slope, because q, k and v are normed again.
        want = (gradient * along).sum().item()
        assert slope == pytest.approx(want, rel=1e-5, abs=2e-15 / step), key


def test_asking_for_gradients_changes_no_value(bridge: Any) -> None:
    _, plain = bridge.run_with_cache(TOKENS)
    loss, cache = bridge.run_with_cache(TOKENS, incl_bwd=True, return_type="loss")
    assert torch.equal(loss, bridge(TOKENS, return_type="loss"))
    for name, value in plain.items():
        assert torch.equal(cache[name], value), name
    floating = [name for name, value in plain.items() if value.is_floating_point()]
    assert set(cache) == set(plain) | {name + "_grad" for name in floating}
    assert all(cache[name + "_grad"].shape == plain[name].shape for name in floating)


def test_gradients_arrive_with_the_callers_own_backward(bridge: Any) -> None:
    want = gradients(bridge, Z)[Z]
    for remove in (False, True):
        tokens = TOKENS[:1] if remove else TOKENS
        logits, cache = bridge.run_with_cache(tokens, Z, incl_bwd=True, remove_batch_dim=remove)
        assert list(cache) == [Z]
        bezel_loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
        )
        bezel_loss.backward()
        got = cache[Z + "_grad"]
        assert got.shape == cache[Z].shape
        if not remove:
            torch.testing.assert_close(got, want)


def test_gradients_of_a_later_backward_cannot_reach_a_dict(bridge: Any) -> None:
    with pytest.raises(ArgumentError, match="return_cache_object"):
        bridge.run_with_cache(TOKENS, Z, incl_bwd=True, return_cache_object=False)
    _, values = bridge.run_with_cache(
        TOKENS, Z, incl_bwd=True, return_type="loss", return_cache_object=False
    )
    assert list(values) == [Z, Z + "_grad"]


def test_gradients_take_slice_and_dtype_like_their_values(bridge: Any) -> None:
    names = [Z, "blocks.1.attn.hook_pattern"]
    whole = gradients(bridge, names)
    cut = gradients(bridge, names, pos_slice=slice(2, 5), dtype=torch.float64)
    assert torch.equal(cut[names[0]], whole[names[0]][:, 2:5].double())
    assert torch.equal(cut[names[1]], whole[names[1]][:, :, 2:5].double())


def test_without_autograd_gradients_are_refused(bridge: Any) -> None:
    for off in (torch.no_grad, torch.inference_mode):
        with off(), pytest.raises(ArgumentError, match="torch.no_grad"):
            bridge.run_with_cache(TOKENS, Z, incl_bwd=True)
        with off(), pytest.raises(ArgumentError, match="torch.no_grad"):
            bridge.run_with_hooks(TOKENS, bwd_hooks=[(Z, lambda g, hook: None)])
        with off():
            bridge(TOKENS)


def test_a_plain_run_builds_no_graph(bridge: Any) -> None:
    assert not bridge(TOKENS).requires_grad
    assert not bridge.run_with_hooks(TOKENS, [(Z, lambda z, hook: 2 * z)]).requires_grad


def test_the_callers_embeddings_get_their_gradient(lab: Lab, bridge: Any) -> None:
    embeddings = lab.values("e2b", 20)["hook_embed"].clone().requires_grad_()
    bridge(embeddings, tokens=TOKENS, return_type="loss").backward()
    want = gradients(bridge, "hook_embed")["hook_embed"]
    torch.testing.assert_close(embeddings.grad, want)


def test_a_hook_can_be_learned_through(bridge: Any) -> None:
    """A steering vector added by a hook gets the gradient of the stream, summed."""
    vector = torch.zeros(48, requires_grad=True)
    name = "blocks.2.hook_resid_mid"
    loss = bridge.run_with_hooks(TOKENS, [(name, lambda x, hook: x + vector)], return_type="loss")
    loss.backward()
    want = gradients(bridge, name)[name].sum(dim=(0, 1))
    torch.testing.assert_close(vector.grad, want)


# --- backward hooks ------------------------------------------------------------------------------


def test_backward_hooks_are_called_in_backward_with_the_gradient(bridge: Any) -> None:
    seen = []

    def look(gradient: torch.Tensor, hook: Any) -> None:
        seen.append((hook.name, hook.dir, hook.layer(), gradient))

    loss = bridge.run_with_hooks(TOKENS, bwd_hooks=[(Z, look)], return_type="loss")
    assert seen == []
    loss.backward()
    ((name, direction, layer, gradient),) = seen
    assert (name, direction, layer) == (Z, "bwd", 1)
    assert torch.equal(gradient, gradients(bridge, Z)[Z])


def test_backward_hooks_replace_the_gradient_in_order_and_what_is_kept_is_the_result(
    bridge: Any,
) -> None:
    before, after = "blocks.1.attn.hook_q", Z
    plain = gradients(bridge, [before, after])

    def negate_in_place(gradient: torch.Tensor, hook: Any) -> None:
        gradient.neg_()

    bwd_hooks = [(Z, lambda g, hook: g + 1), (Z, lambda g, hook: 2 * g), (Z, negate_in_place)]
    got = gradients(bridge, [before, after], bwd_hooks=bwd_hooks)
    torch.testing.assert_close(got[after], -2 * (plain[after] + 1))
    zero = gradients(bridge, [before, after], bwd_hooks=[(Z, lambda g, hook: 0 * g)])
    assert not zero[after].any()
    assert not zero[before].any()  # all that passes through z
    assert plain[before].any()


def test_a_gradient_that_is_replaced_passes_on_as_it_was_returned(bridge: Any) -> None:
    """Another dtype is cast back; what the hook keeps of it stays its own."""
    held = []

    def keeps(gradient: torch.Tensor, hook: Any) -> torch.Tensor:
        held.append(torch.full_like(gradient, 0.5, dtype=torch.float64))
        return held[0]

    bwd_hooks = [(Z, keeps), (Z, lambda g, hook: g.mul_(3))]
    got = gradients(bridge, Z, bwd_hooks=bwd_hooks)[Z]
    assert torch.equal(got, torch.full_like(got, 1.5))
    assert got.dtype == torch.float32
    assert torch.equal(held[0], torch.full_like(held[0], 0.5))


def test_a_backward_hook_beside_a_forward_hook_sees_the_gradient_of_the_edited_value(
    bridge: Any,
) -> None:
    name = "blocks.3.hook_mlp_out"
    plain = gradients(bridge, name)[name]
    seen = []
    loss = bridge.run_with_hooks(
        TOKENS,
        [(name, lambda x, hook: 2 * x - x)],
        [(name, lambda g, hook: seen.append(g))],
        return_type="loss",
    )
    loss.backward()
    torch.testing.assert_close(seen[0], plain)


def test_integers_have_no_gradient(lab: Lab) -> None:
    bridge = lab.bridge("moe")
    for name in ("hook_tokens", "blocks.0.moe.hook_expert_indices"):
        with pytest.raises(HookNotApplicableError, match=f"{name}.*integers"):
            bridge.run_with_hooks(TOKENS, bwd_hooks=[(name, lambda g, hook: None)])


def test_a_globbed_backward_hook_skips_integers(lab: Lab) -> None:
    seen = []
    bwd_hooks = [("blocks.0.moe.*", lambda g, hook: seen.append(hook.name))]
    lab.bridge("moe").run_with_hooks(TOKENS, bwd_hooks=bwd_hooks, return_type="loss").backward()
    assert "blocks.0.moe.hook_router_probs" in seen
    assert "blocks.0.moe.hook_expert_indices" not in seen


def test_backward_works_when_the_bridge_is_gone(lab: Lab) -> None:
    seen = []
    bridge = bezel.Bridge.from_pretrained(lab.folder("e2b"), dtype=torch.float32)
    (_, loss), _ = bridge.run_with_cache(
        TOKENS,
        Z,
        incl_bwd=True,
        bwd_hooks=[(Z, lambda g, hook: seen.append(hook.name))],
        return_type="both",
    )
    del bridge, _
    gc.collect()
    torch.randn(1_000_000)  # would write over what was freed
    loss.backward()
    assert seen == [Z]


def test_two_backwards_of_one_graph_call_the_hooks_twice(bridge: Any) -> None:
    seen = []
    loss = bridge.run_with_hooks(
        TOKENS, bwd_hooks=[(Z, lambda g, hook: seen.append(g))], return_type="loss"
    )
    loss.backward(retain_graph=True)
    loss.backward()
    assert len(seen) == 2
    assert torch.equal(*seen)
