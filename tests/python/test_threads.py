"""Runs beside each other and beside Python: the GIL is free, calls do not meet, Ctrl-C stops."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from support import fixtures
from support.lab import Lab

TOKENS = fixtures.tokens(33)


def work(bridge: Any, seed: int) -> list[torch.Tensor]:
    """A run of its own kind for each seed: other ids, other edits, other records, a gradient."""
    tokens = fixtures.tokens(20 + seed, seed=seed)
    layer = seed % bridge.cfg.n_layers
    name = f"blocks.{layer}.attn.hook_z"

    def edit(value: torch.Tensor, hook: Any) -> torch.Tensor:
        hook.ctx["calls"] = hook.ctx.get("calls", 0) + 1
        assert hook.ctx["calls"] == 1
        return value * (seed + 1)

    loss, cache = bridge.run_with_cache(
        tokens,
        ["blocks.*.hook_resid_post", name],
        fwd_hooks=[(name, edit)],
        incl_bwd=True,
        return_type="loss",
    )
    return [loss, *(cache[key] for key in sorted(cache)), bridge(tokens)]


@pytest.mark.parametrize("name", ["e2b", "moe"])
@pytest.mark.parametrize("path", ["automatic", "open"])
def test_threads_with_different_hooks_get_the_bits_of_serial_runs(
    lab: Lab, name: str, path: str
) -> None:
    bridge = lab.bridge(name, path=path)
    seeds = range(8)
    want = [work(bridge, seed) for seed in seeds]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for got, serial in zip(pool.map(lambda s: work(bridge, s), seeds), want, strict=True):
                assert len(got) == len(serial)
                assert all(torch.equal(a, b) for a, b in zip(got, serial, strict=True))


def long_tokens(bridge: Any, seconds: float) -> torch.Tensor:
    """A batch on which a run takes about this long."""
    tokens = torch.full((1, 512), 5)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        bridge(tokens)
        times.append(time.perf_counter() - start)
    return tokens.expand(max(1, round(seconds / min(times))), -1).contiguous()


def test_other_python_threads_go_on_during_a_run(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    tokens = long_tokens(bridge, seconds=0.5)
    stop, ticks = threading.Event(), []

    def tick() -> None:
        while not stop.wait(0.005):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    bridge(tokens)
    end = time.perf_counter()
    stop.set()
    thread.join()
    during = sum(start < tick < end for tick in ticks)
    assert during > 5, f"{during} ticks in {end - start:.2f} s"


def test_an_error_in_one_thread_leaves_the_others_alone(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    want = bridge(TOKENS)

    def fails(value: torch.Tensor, hook: Any) -> None:
        raise ZeroDivisionError(hook.name)

    def one(seed: int) -> bool:
        if seed % 2:
            with pytest.raises(ZeroDivisionError):
                bridge.run_with_hooks(TOKENS, [("blocks.2.attn.hook_z", fails)])
            return True
        return torch.equal(bridge(TOKENS), want)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(one, range(40)))


def test_backward_hooks_may_run_in_a_thread_of_autograd(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    name, seen = "blocks.2.attn.hook_z", []
    loss = bridge.run_with_hooks(
        TOKENS, bwd_hooks=[(name, lambda g, hook: seen.append(g))], return_type="loss"
    )
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    assert len(seen) == 1


INTERRUPTED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
from typing import Any
sys.path.insert(0, {package!r})
import torch
torch.set_num_threads(1)
import bezel
{long_tokens}
bridge = bezel.Bridge.from_pretrained({folder!r})
tokens = long_tokens(bridge, seconds=4.0)  # half a second for each block
print("running", flush=True)
try:
    for _ in range(100):  # however fast the machine has become since the tokens were counted
        bridge(tokens)
    print("finished", flush=True)
except KeyboardInterrupt:
    print("interrupted", time.time(), flush=True)
    print(bridge(tokens[:1, :4]).shape[-1], flush=True)  # still usable
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_stops_a_run_within_a_second(lab: Lab) -> None:
    package = next(p for p in sys.path if (Path(p) / "bezel" / "__init__.py").exists())
    code = INTERRUPTED.format(
        package=package, long_tokens=inspect.getsource(long_tokens), folder=str(lab.folder("e2b"))
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "running\n", child.communicate()[1]
    time.sleep(0.5)
    sent = time.time()
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    words = out.split()
    assert words[:1] == ["interrupted"], out + err
    assert float(words[1]) - sent < 1.0
    assert words[2] == "160"
