"""On a device: a cache that does not fit in what is really free is refused before the run."""

from __future__ import annotations

import gc
import math
import os
import re
from typing import Any

import pytest
import torch

import bezel
from bezel.errors import CacheTooLargeError
from support.devices import cases, on
from support.lab import Lab

PATTERNS = "blocks.*.attn.hook_pattern"
GIB = 2**30


def tokens_for(bridge: Any, n_bytes: int) -> torch.Tensor:
    """Ids [1 pos] whose patterns take at least this much; they grow with the square of pos."""
    n_pos = 64
    once = bridge.plan((1, n_pos), PATTERNS).cache_bytes
    tokens = torch.full((1, math.ceil(n_pos * math.sqrt(n_bytes / once))), 5)
    assert bridge.plan(tuple(tokens.shape), PATTERNS).cache_bytes >= n_bytes
    return tokens


def really_free(device: str) -> int:
    """What torch holds and does not use is free, too. On the CPU: no more than the machine has."""
    if device == "cuda":
        held = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + held
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(("device", "kept_on"), cases(("cpu", "cuda")))
def test_a_cache_larger_than_the_free_memory_is_refused(
    lab: Lab, device: str, kept_on: str
) -> None:
    """Of the device that would keep it; the message says how much that has."""
    bridge, free = lab.bridge("mha", device=device), really_free(kept_on)
    tokens = tokens_for(bridge, 2 * free)
    with pytest.raises(CacheTooLargeError) as caught:
        bridge.run_with_cache(tokens, PATTERNS, device=kept_on)
    (said,) = re.findall(r"and ([0-9.]+) GiB are free", str(caught.value))
    assert 0 < float(said) * GIB <= free * 1.01
    if kept_on == "cuda":
        assert float(said) * GIB == pytest.approx(free, rel=0.1, abs=GIB)
    small = bridge.run_with_cache(tokens[:, :64], PATTERNS, device=kept_on)[1]
    assert all(on(kept_on, value) for value in small.values())


@pytest.mark.gpu
def test_memory_that_torch_holds_and_does_not_use_counts_as_free(lab: Lab) -> None:
    """Its allocator keeps what earlier runs gave back; the driver calls that taken."""
    bridge = lab.bridge("mha", device="cuda")
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    torch.empty(free - GIB // 2, dtype=torch.uint8, device="cuda")  # given back at once
    try:
        assert torch.cuda.mem_get_info()[0] < GIB
        _, cache = bridge.run_with_cache(tokens_for(bridge, GIB), PATTERNS)
        assert sum(value.nbytes for value in cache.values()) >= GIB
    finally:
        torch.cuda.empty_cache()


@pytest.mark.gpu
def test_a_run_takes_no_more_than_its_plan(lab: Lab) -> None:
    """Beside the weights: the planned cache, and the values of one layer at a time."""
    bridge = lab.bridge("e2b", device="cuda")
    tokens = tokens_for(bridge, GIB)
    bridge(tokens[:, :64])  # the libraries' own workspaces
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    _, cache = bridge.run_with_cache(tokens, PATTERNS)
    planned = bridge.plan(tuple(tokens.shape), PATTERNS).cache_bytes
    kept = torch.cuda.memory_allocated() - before
    assert kept <= planned + (64 << 20)
    one_layer = planned // bridge.cfg.n_layers
    assert torch.cuda.max_memory_allocated() - before <= planned + 4 * one_layer
    del cache


@pytest.mark.gpu
def test_loading_takes_the_weights_and_no_more(lab: Lab) -> None:
    folder = lab.folder("e2b")
    bezel.Bridge.from_pretrained(folder, device="cuda")  # the device's own set-up
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    bridge = bezel.Bridge.from_pretrained(folder, device="cuda")
    # The allocator hands out blocks of 512 bytes.
    held = sum(-(-weight.nbytes // 512) * 512 for _, weight in bridge._core.named_weights())
    assert torch.cuda.max_memory_allocated() - before <= held
