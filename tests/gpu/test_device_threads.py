"""On a device: threads, streams and other devices do not meet."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from support import compare, fixtures
from support.devices import CUDA, cases, on
from support.lab import Lab

TOKENS = fixtures.tokens(33)
SEEDS = range(8)


def work(bridge: Any, seed: int) -> list[torch.Tensor]:
    """A run of its own kind for each seed: other ids, another edit, other records, a gradient."""
    tokens = fixtures.tokens(20 + seed, seed=seed)
    name = f"blocks.{seed % bridge.cfg.n_layers}.attn.hook_z"
    loss, cache = bridge.run_with_cache(
        tokens,
        ["blocks.*.hook_resid_post", name],
        fwd_hooks=[(name, lambda value, hook: value * (seed + 1))],
        incl_bwd=True,
        return_type="loss",
    )
    return [loss, *(cache[key] for key in sorted(cache)), bridge(tokens)]


def on_own_stream(bridge: Any, seed: int) -> list[torch.Tensor]:
    """The same on a stream that nothing else uses; the results are on the CPU."""
    if bridge.device.type == CUDA:
        stream = torch.cuda.Stream(bridge.device)
        with torch.cuda.stream(stream):
            results = [value.detach().cpu() for value in work(bridge, seed)]
            assert torch.cuda.current_stream() == stream
            return results
    return [value.detach() for value in work(bridge, seed)]


@pytest.mark.parametrize(("device", "name"), cases(("e2b", "moe")))
@pytest.mark.parametrize("path", ["automatic", "open"])
def test_threads_with_different_hooks_get_the_bits_of_serial_runs(
    lab: Lab, device: str, name: str, path: str
) -> None:
    bridge = lab.bridge(name, path=path, device=device)
    want = [work(bridge, seed) for seed in SEEDS]
    with ThreadPoolExecutor(4) as pool:
        for got, serial in zip(pool.map(lambda s: work(bridge, s), SEEDS), want, strict=True):
            assert len(got) == len(serial)
            assert all(torch.equal(a, b) for a, b in zip(got, serial, strict=True))


@pytest.mark.parametrize(("device", "name"), cases(("e2b", "moe")))
def test_threads_on_streams_of_their_own_get_the_results_of_serial_runs(
    lab: Lab, device: str, name: str
) -> None:
    bridge = lab.bridge(name, path="open", device=device)
    want = [[value.detach().cpu() for value in work(bridge, seed)] for seed in SEEDS]
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda s: on_own_stream(bridge, s), [*SEEDS, *SEEDS]))
    for got, serial in zip(runs, want + want, strict=True):
        for value, same in zip(got, serial, strict=True):
            assert compare.relative_rms(value, same) <= compare.RELATIVE_RMS


@pytest.mark.parametrize("device", cases())
def test_a_run_does_not_change_the_current_device_or_stream(lab: Lab, device: str) -> None:
    bridge = lab.bridge("e2b", device=device)
    stream = torch.cuda.Stream() if device == CUDA else None
    with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
        logits = bridge(TOKENS)
        if stream:
            assert torch.cuda.current_stream() == stream
            stream.synchronize()
    want = lab.values("e2b", 33)["hook_logits"]
    assert (logits.cpu() - want).abs().max() <= compare.logits_gate(want)


@pytest.mark.gpu(devices=2)
@pytest.mark.parametrize("path", ["automatic", "open"])
@pytest.mark.parametrize("name", ["e2b", "moe"])
def test_a_model_runs_on_a_device_that_is_not_the_current_one(
    lab: Lab, name: str, path: str
) -> None:
    bridge = lab.bridge(name, path=path, device="cuda:1")
    assert torch.cuda.current_device() == 0
    loss, cache = bridge.run_with_cache(TOKENS.to("cuda:0"), incl_bwd=True, return_type="loss")
    assert torch.cuda.current_device() == 0
    assert loss.device == torch.device("cuda:1")
    assert all(value.device == loss.device for value in cache.values())
    _, kept = bridge.run_with_cache(TOKENS, device="cuda:0")
    assert all(value.device == torch.device("cuda:0") for value in kept.values())
    want = lab.values(name, 33)
    assert not compare.disagreements(
        [point for point in lab.points(name) if not point.on_demand], kept.to("cpu"), want
    )


@pytest.mark.gpu
def test_two_models_on_two_kinds_of_device_run_beside_each_other(lab: Lab) -> None:
    bridges = [lab.bridge("e2b", path="open", device=device) for device in ("cpu", "cuda")]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda bridge: bridge(TOKENS), bridges)
    assert on("cpu", first)
    assert on("cuda", second)
    assert (second.cpu() - first).abs().max() <= compare.logits_gate(first)
