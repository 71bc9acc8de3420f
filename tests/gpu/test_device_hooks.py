"""On a device: names are causal, hooks are told the truth, gradients are the reference's."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from bezel.errors import HookResultError
from support import compare, fixtures, reference
from support.devices import CUDA, cases, on
from support.lab import Lab

NAMES = tuple(fixtures.RECIPES)
PATHS = ("automatic", "open")
ON_CPU = ("e2b", "moe")
LENGTH = 11
TOKENS = fixtures.tokens(LENGTH)
VISIBLE = 1e-3  # far above rounding
OWN_ERRORS = 3.0  # backward amplifies: where the reference itself is off by more, that is the gate
LOSS_IN_FLOAT32 = 1e-6  # the reference computes the loss so, in float64 models too
Z = "blocks.1.attn.hook_z"
# A copy of the stream per head goes through a product of another shape, which may round otherwise.
COPIES = ("hook_q_input", "hook_k_input", "hook_v_input")


def same(value: torch.Tensor, hook: Any) -> torch.Tensor:
    return value


def other_value(value: torch.Tensor, name: str) -> torch.Tensor:
    """A value of the same kind on the same device: other ids, other experts, or with noise."""
    if name == "hook_tokens":
        return fixtures.tokens(LENGTH, seed=9).to(value.device)
    if name.endswith("expert_indices"):
        return (value + 1) % 8
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name)))
    noise = noise.to(value)
    # Of both signs: q, k and v are normed again, so that a positive factor in ln1 cancels.
    return value * (1 + 2 * noise) if name.endswith("scale") else value + 0.5 * noise


@pytest.mark.parametrize(("device", "name"), cases(NAMES, on_cpu=ON_CPU))
def test_a_random_edit_at_each_name_is_felt_as_on_the_cpu(lab: Lab, device: str, name: str) -> None:
    """What follows from it is what follows from the same edit in float64."""
    bridge = lab.bridge(name, path="open", device=device)
    exact = lab.bridge(name, path="open", dtype=torch.float64)
    plain = bridge(TOKENS)
    for other in lab.names(name):
        hooks = [(other, lambda value, hook: other_value(value, hook.name))]
        edited = bridge.run_with_hooks(TOKENS, hooks)
        assert on(device, edited)
        assert (edited - plain).abs().max() > VISIBLE, other
        want = exact.run_with_hooks(TOKENS, hooks)
        assert compare.relative_rms(edited.cpu(), want) <= 1e-4, other


@pytest.mark.parametrize(("device", "name"), cases(NAMES, on_cpu=ON_CPU))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_identity_edit_at_each_name_changes_no_bit_on_the_open_path(
    lab: Lab, device: str, name: str, dtype: torch.dtype
) -> None:
    bridge = lab.bridge(name, path="open", device=device, dtype=dtype)
    plain = bridge(TOKENS)
    assert torch.equal(bridge(TOKENS), plain)
    for other in lab.names(name):
        edited = bridge.run_with_hooks(TOKENS, [(other, same)])
        if other.endswith(COPIES) and device == CUDA:
            assert compare.relative_rms(edited, plain) <= (1e-5 if dtype.itemsize == 4 else 0.3)
        else:
            assert torch.equal(edited, plain), other


@pytest.mark.parametrize(("device", "name"), cases(NAMES, on_cpu=ON_CPU))
def test_all_identity_edits_and_records_at_once_change_no_bit_on_the_open_path(
    lab: Lab, device: str, name: str
) -> None:
    bridge = lab.bridge(name, path="open", device=device)
    names = [other for other in lab.names(name) if not other.endswith(COPIES)]
    logits, cache = bridge.run_with_cache(TOKENS, names, fwd_hooks=[(n, same) for n in names])
    assert torch.equal(logits, bridge(TOKENS))
    assert sorted(cache) == sorted(names)


@functools.cache
def exact_gradients(lab: Lab, name: str) -> reference.Values:
    return reference.capture_gradients(lab.oracle(name), TOKENS)


@functools.cache
def reference_gradients(lab: Lab, name: str) -> reference.Values:
    return reference.capture_gradients(lab.reference(name), TOKENS)


def gradients(bridge: Any, names: Any, **arguments: Any) -> dict[str, torch.Tensor]:
    _, cache = bridge.run_with_cache(TOKENS, names, incl_bwd=True, return_type="loss", **arguments)
    return {key.removesuffix("_grad"): cache[key] for key in cache if key.endswith("_grad")}


@pytest.mark.parametrize(("device", "name", "path"), cases(NAMES, PATHS, on_cpu=ON_CPU))
def test_gradients_are_those_of_the_reference(lab: Lab, device: str, name: str, path: str) -> None:
    want, exact = reference_gradients(lab, name), exact_gradients(lab, name)
    got = gradients(lab.bridge(name, path=path, device=device), list(want))
    for key, value in want.items():
        assert on(device, got[key])
        gate = max(compare.RELATIVE_RMS, OWN_ERRORS * compare.relative_rms(value, exact[key]))
        assert compare.relative_rms(got[key].cpu(), value) <= gate, key


@pytest.mark.parametrize(("device", "name"), cases(NAMES, on_cpu=ON_CPU))
def test_gradients_in_float64_are_exact_on_the_open_path(lab: Lab, device: str, name: str) -> None:
    exact = exact_gradients(lab, name)
    bridge = lab.bridge(name, path="open", device=device, dtype=torch.float64)
    for key, value in gradients(bridge, list(exact)).items():
        assert compare.relative_rms(value.cpu(), exact[key]) <= LOSS_IN_FLOAT32, key


@pytest.mark.parametrize(("device", "path"), cases(PATHS))
def test_gradients_of_bfloat16_are_finite_with_padding(lab: Lab, device: str, path: str) -> None:
    """Library attention has been seen to give NaN here: lengths of 64 mod 128 with a mask."""
    tokens, mask = fixtures.tokens(64), torch.ones(2, 64, dtype=torch.int64)
    mask[0, :20] = 0
    bridge = lab.bridge("mha", "bfloat16", path=path, device=device, dtype=torch.bfloat16)
    _, cache = bridge.run_with_cache(tokens, incl_bwd=True, return_type="loss", attention_mask=mask)
    bad = [key for key, value in cache.items() if not torch.isfinite(value).all()]
    assert not bad
    assert any(cache[key].any() for key in cache if key.endswith("_grad"))


@pytest.mark.parametrize(("device", "kept_on"), cases(("cpu", "cuda")))
def test_gradients_are_kept_where_the_values_are(lab: Lab, device: str, kept_on: str) -> None:
    bridge = lab.bridge("e2b", path="open", device=device)
    want = gradients(bridge, "blocks.*.hook_resid_mid")
    got = gradients(bridge, "blocks.*.hook_resid_mid", device=kept_on)
    assert sorted(got) == sorted(want)
    for key, value in got.items():
        assert on(kept_on, value)
        assert torch.equal(value.cpu(), want[key].cpu()), key


@pytest.mark.parametrize("device", cases())
def test_hooks_are_told_positions_on_their_values_device(lab: Lab, device: str) -> None:
    seen = []

    def look(value: torch.Tensor, hook: Any) -> None:
        seen.append(hook.name)
        assert on(device, value)
        assert on(device, hook.positions)
        assert on(device, hook.key_positions)
        assert hook.positions.tolist() == [[-1] * 3 + list(range(LENGTH - 3)), [*range(LENGTH)]]

    mask = torch.ones_like(TOKENS)
    mask[0, :3] = 0
    names = ["hook_tokens", "blocks.1.attn.hook_pattern", "blocks.4.attn.hook_shared_k"]
    lab.bridge("e2b", device=device).run_with_hooks(
        TOKENS, [(name, look) for name in names], attention_mask=mask
    )
    assert seen == names


@pytest.mark.parametrize("device", cases())
def test_an_error_of_a_backward_hook_comes_back_unchanged(lab: Lab, device: str) -> None:
    """On CUDA, autograd calls hooks from a thread of its own."""

    class OwnError(Exception):
        pass

    raised = OwnError("with its words")

    def fails(gradient: torch.Tensor, hook: Any) -> None:
        assert on(device, gradient)
        raise raised

    bridge = lab.bridge("e2b", device=device)
    loss = bridge.run_with_hooks(TOKENS, bwd_hooks=[(Z, fails)], return_type="loss")
    with pytest.raises(OwnError) as caught:
        loss.backward()
    assert caught.value is raised
    assert on(device, bridge(TOKENS))


@pytest.mark.parametrize("device", cases())
def test_a_hook_can_be_learned_through(lab: Lab, device: str) -> None:
    bridge, name = lab.bridge("e2b", path="open", device=device), "blocks.2.hook_resid_mid"
    vector = torch.zeros(48, device=device, requires_grad=True)
    loss = bridge.run_with_hooks(TOKENS, [(name, lambda x, hook: x + vector)], return_type="loss")
    loss.backward()
    want = gradients(bridge, name)[name].sum(dim=(0, 1))
    torch.testing.assert_close(vector.grad, want, rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
def test_a_value_of_another_device_is_refused(lab: Lab) -> None:
    for device, other in (("cpu", "cuda"), ("cuda", "cpu")):
        bridge = lab.bridge("e2b", device=device)
        with pytest.raises(HookResultError, match=f"on {other}.*on {device}"):
            bridge.run_with_hooks(TOKENS, [(Z, lambda z, hook, other=other: z.to(other))])


@pytest.mark.parametrize(("device", "name"), cases(("moe",)))
def test_experts_out_of_range_are_refused_before_the_device_reads_them(
    lab: Lab, device: str, name: str
) -> None:
    bridge = lab.bridge(name, device=device)
    for wrong in (-1, 8):
        hooks = [("blocks.0.moe.hook_expert_indices", lambda x, hook, to=wrong: x.fill_(to))]
        with pytest.raises(HookResultError, match="experts 0 to 7"):
            bridge.run_with_hooks(TOKENS, hooks)
    assert torch.isfinite(bridge(TOKENS)).all()  # the device is as it was


@pytest.mark.parametrize(("device", "name"), cases(ON_CPU))
def test_recorded_values_change_with_nothing(lab: Lab, device: str, name: str) -> None:
    """Not with a write into what the run gave, nor with the runs after it."""
    bridge = lab.bridge(name, device=device)
    logits, cache = bridge.run_with_cache(TOKENS)
    before = {key: value.clone() for key, value in cache.items()}
    logits.zero_()
    bridge.run_with_cache(fixtures.tokens(LENGTH, seed=4))
    for key, value in cache.items():
        assert torch.equal(value, before[key]), key
