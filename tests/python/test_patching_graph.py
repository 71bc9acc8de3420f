"""What a patch at all positions decides, and what runs beside it: Gemma 4's parallel paths."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from support import fixtures
from support.graph import behind, known_from, sources_of
from support.hook_table import of_text
from support.lab import Lab

NAMES = tuple(fixtures.RECIPES)
LENGTH = 7
CORRUPTED = fixtures.tokens(LENGTH)
CLEAN = fixtures.tokens(LENGTH, seed=3)
EXACT = 1e-12
VISIBLE = 1e-6


def float64(lab: Lab, name: str) -> Any:
    return lab.bridge(name, path="open", dtype=torch.float64)


def put(values: Any) -> Any:
    return lambda value, hook: values[hook.name]


def gap(got: torch.Tensor, want: torch.Tensor) -> float:
    if not want.is_floating_point():
        return float((got != want).sum())
    return float((got - want).abs().max() / want.abs().max().clamp(min=1e-30))


@pytest.mark.parametrize("name", NAMES)
def test_a_patch_decides_what_depends_on_it_alone_and_leaves_what_does_not(
    lab: Lab, name: str
) -> None:
    """Each name of each model, put from the corrupted run into the clean one."""
    bridge = float64(lab, name)
    sources = sources_of(bridge)
    recorded = [p.name for p in of_text(bridge.hook_points()) if p.access == "edit"]
    corrupted = bridge.run_with_cache(CORRUPTED, list(sources))[1]
    _, clean = bridge.run_with_cache(CLEAN)
    for patched in sources:
        _, got = bridge.run_with_cache(CLEAN, fwd_hooks=[(patched, put(corrupted))])
        decided, reached = known_from([patched], sources), behind([patched], sources)
        for other in recorded:
            if other in decided:
                assert gap(got[other], corrupted[other]) <= EXACT, (patched, other)
            elif other not in reached:
                assert gap(got[other], clean[other]) <= EXACT, (patched, other)


def parallel_paths(bridge: Any, start: int) -> list[str]:
    """What reaches the blocks from `start` on, beside the stream."""
    names = {p.name for p in of_text(bridge.hook_points())}
    blocks = range(start, bridge.cfg.n_layers)
    beside = [f"blocks.{i}.ple.hook_input" for i in blocks]
    for i in blocks:
        donor = bridge.cfg.layers[i].attention.donor
        if donor is not None and donor < start:
            beside += [f"blocks.{donor}.attn.hook_rot_k", f"blocks.{donor}.attn.hook_v_normed"]
    return [name for name in dict.fromkeys(beside) if name in names]


@pytest.mark.parametrize("name", NAMES)
def test_stream_and_parallel_paths_together_give_the_corrupted_logits_and_the_stream_alone_not(
    lab: Lab, name: str
) -> None:
    bridge = float64(lab, name)
    want, corrupted = bridge.run_with_cache(CORRUPTED)
    sources = sources_of(bridge)
    for start in range(bridge.cfg.n_layers):
        stream, beside = f"blocks.{start}.hook_resid_pre", parallel_paths(bridge, start)
        assert "hook_logits" in known_from([stream, *beside], sources)
        hooks = [(at, put(corrupted)) for at in (stream, *beside)]
        assert gap(bridge.run_with_hooks(CLEAN, hooks), want) <= EXACT
        for left_out in beside:
            fewer = [hook for hook in hooks if hook[0] != left_out]
            assert gap(bridge.run_with_hooks(CLEAN, fewer), want) > VISIBLE, left_out
        if beside:
            assert gap(bridge.run_with_hooks(CLEAN, hooks[:1]), want) > VISIBLE
