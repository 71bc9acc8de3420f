"""On a device: every value, the logits and the loss are those of transformers on the CPU."""

from __future__ import annotations

import functools

import pytest
import torch

from support import compare, fixtures, reference
from support.devices import cases, on, to_cpu
from support.lab import Lab

NAMES = tuple(fixtures.RECIPES)
PATHS = ("automatic", "open")
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
LOSS_GATE = 1e-6
FLOAT64 = 1e-12  # of any value; nothing passes through float32
TIMES_OWN_ERROR = 2.0
# One of each kind of layer: PLE with sharing, experts with K == V, full heads without either.
ON_CPU = ("e2b", "moe", "mha")
LENGTH = 33  # past every window, and one beyond a multiple of 32
TOKENS = fixtures.tokens(LENGTH)
MANY = fixtures.tokens(40, batch=8)


@functools.cache
def exact_values(lab: Lab, name: str) -> reference.Values:
    return reference.capture(lab.oracle(name), TOKENS)


@functools.cache
def bfloat16_values(lab: Lab, name: str, dtype: torch.dtype) -> reference.Values:
    """Of the weights rounded to bfloat16, computed in this dtype."""
    return reference.capture(lab.reference(name, dtype=dtype, form="bfloat16"), MANY)


@pytest.mark.parametrize(("device", "name", "dtype"), cases(ON_CPU, DTYPES))
def test_weights_are_those_of_the_file_on_the_device(
    lab: Lab, device: str, name: str, dtype: torch.dtype
) -> None:
    bridge = lab.bridge(name, device=device, dtype=dtype)
    want = dict(lab.bridge(name, dtype=torch.float32)._core.named_weights())
    for slot, weight in bridge._core.named_weights():
        assert on(device, weight)
        assert torch.equal(weight.cpu(), want[slot].to(dtype)), slot
    assert on(device, torch.empty(0, device=bridge.device))
    assert bridge.dtype == dtype


@pytest.mark.parametrize(("device", "name", "path"), cases(NAMES, PATHS, on_cpu=ON_CPU))
def test_every_value_is_that_of_the_reference(lab: Lab, device: str, name: str, path: str) -> None:
    points, want = lab.points(name), lab.values(name, LENGTH)
    bridge = lab.bridge(name, path=path, device=device)
    logits, cache = bridge.run_with_cache(TOKENS, lab.names(name))
    assert all(on(device, value) for value in (logits, *cache.values()))
    assert torch.equal(logits, cache["hook_logits"])
    assert not compare.disagreements(points, to_cpu(cache), want)


@pytest.mark.parametrize(("device", "name"), cases(NAMES, on_cpu=ON_CPU))
def test_float64_is_exact_on_the_open_path(lab: Lab, device: str, name: str) -> None:
    bridge = lab.bridge(name, path="open", device=device, dtype=torch.float64)
    _, cache = bridge.run_with_cache(TOKENS, lab.names(name))
    got, want = to_cpu(cache), exact_values(lab, name)
    assert all(got[key].dtype in (torch.float64, torch.int64) for key in got)
    assert not compare.disagreements(lab.points(name), got, want, gate=FLOAT64)


@pytest.mark.parametrize(("device", "name", "path"), cases(NAMES, PATHS, on_cpu=ON_CPU))
def test_logits_and_loss_are_those_of_the_reference(
    lab: Lab, device: str, name: str, path: str
) -> None:
    """Nothing is asked for here, so that the automatic path takes its library kernels."""
    bridge, want = lab.bridge(name, path=path, device=device), lab.values(name, LENGTH)
    logits, loss = bridge(TOKENS, return_type="both")
    assert on(device, logits)
    assert on(device, loss)
    want_logits = want["hook_logits"]
    assert (logits.cpu() - want_logits).abs().max() <= compare.logits_gate(want_logits)
    with torch.no_grad():
        want_loss = lab.reference(name)(TOKENS, labels=TOKENS).loss
    torch.testing.assert_close(loss.cpu(), want_loss, rtol=LOSS_GATE, atol=0.0)


@pytest.mark.parametrize(("device", "name", "path"), cases(NAMES, PATHS, on_cpu=ON_CPU[:2]))
def test_bfloat16_is_as_close_as_the_reference_s_own(
    lab: Lab, device: str, name: str, path: str
) -> None:
    theirs, oracle = (bfloat16_values(lab, name, kind) for kind in (torch.bfloat16, torch.float32))
    bridge = lab.bridge(name, "bfloat16", dtype=torch.bfloat16, path=path, device=device)
    _, cache = bridge.run_with_cache(MANY, lab.names(name))
    by_row = compare.ratios(lab.points(name), to_cpu(cache), theirs, oracle)
    assert len(by_row) > 40
    assert {row: ratio for row, ratio in by_row.items() if not ratio <= TIMES_OWN_ERROR} == {}
    want = oracle["hook_logits"]
    own = compare.relative_rms(theirs["hook_logits"], want)
    assert compare.relative_rms(bridge(MANY).cpu(), want) <= TIMES_OWN_ERROR * own


@pytest.mark.parametrize(("device", "dtype"), cases((torch.float32, torch.bfloat16)))
@pytest.mark.parametrize("name", ON_CPU)
def test_the_automatic_path_is_as_close_as_the_open_one(
    lab: Lab, device: str, dtype: torch.dtype, name: str
) -> None:
    oracle = lab.bridge(name, "bfloat16", dtype=torch.float64, path="open")(MANY)
    errors = {}
    for path in PATHS:
        bridge = lab.bridge(name, "bfloat16", dtype=dtype, path=path, device=device)
        errors[path] = compare.relative_rms(bridge(MANY).cpu(), oracle)
    assert errors["automatic"] <= TIMES_OWN_ERROR * errors["open"]
    assert 0 < errors["open"] < (1e-5 if dtype == torch.float32 else 0.3)


@pytest.mark.parametrize(("device", "first"), cases((0, 1_000, 100_000)))
@pytest.mark.parametrize("path", PATHS)
def test_rotations_far_out_are_those_of_the_reference(
    lab: Lab, device: str, first: int, path: str
) -> None:
    """A frequency that is off in its last bit turns by a hundredth of a radian out there."""
    positions = (torch.arange(LENGTH) + first).expand(2, -1)
    mask = torch.ones(2, LENGTH)
    want = reference.capture(lab.reference("e2b"), TOKENS, mask, positions)
    bridge = lab.bridge("e2b", path=path, device=device)
    _, cache = bridge.run_with_cache(TOKENS, "blocks.*.attn.hook_rot_q", position_ids=positions)
    for key, value in to_cpu(cache).items():
        assert compare.relative_rms(value, want[key]) <= compare.RELATIVE_RMS, key


@pytest.mark.parametrize(("device", "name"), cases(ON_CPU))
def test_a_run_leaves_the_switches_of_torch_alone(lab: Lab, device: str, name: str) -> None:
    def switches() -> list[object]:
        matmul = torch.backends.cuda.matmul
        current = torch.cuda.current_device() if torch.cuda.is_available() else None
        return [
            matmul.allow_tf32,
            matmul.allow_bf16_reduced_precision_reduction,
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.cudnn_sdp_enabled(),
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            current,
        ]

    assert not torch.backends.cuda.matmul.allow_tf32  # nobody has asked for it
    torch.manual_seed(7)
    before, state = switches(), torch.get_rng_state()
    lab.bridge(name, device=device).run_with_cache(TOKENS, incl_bwd=True, return_type="loss")
    assert switches() == before
    assert torch.equal(torch.get_rng_state(), state)
