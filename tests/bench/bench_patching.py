"""How long patching takes, in plain loops and plain forwards."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from models import NANO, make_checkpoint
from report import table
from timing import median_ms

import bezel
from bezel.patching import attribution_patch, get_act_patch_resid_pre
from support.sweeps import plain_sweep

_N_POS = 16
STREAM = [f"blocks.*.hook_{part}" for part in ("resid_pre", "attn_out", "mlp_out", "ple_out")]


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[0, -1, 5] - logits[0, -1, 9]


def bench_sweep(seconds: float) -> str:
    """10 layers × 16 positions of the trained miniature."""
    torch.manual_seed(0)
    b = bezel.Bridge.from_pretrained(str(NANO))
    corrupted, clean = torch.randint(4, b.cfg.d_vocab, (2, 1, _N_POS))
    _, cache = b.run_with_cache(clean)
    index = [(layer, pos) for layer in range(b.cfg.n_layers) for pos in range(_N_POS)]
    cells = [(f"blocks.{layer}.hook_resid_pre", (layer, pos)) for layer, pos in index]

    def set_patch(value: torch.Tensor, at: Any, clean: torch.Tensor) -> torch.Tensor:
        value[:, at[1]] = clean[:, at[1]]
        return value

    medians = median_ms(
        {
            "loop of run_with_hooks": lambda: plain_sweep(b, corrupted, cache, cells, set_patch),
            "planned sweep": lambda: get_act_patch_resid_pre(
                b, corrupted, cache, metric, verbose=False
            ),
        },
        seconds,
    )
    title = f"Patching nano: {b.cfg.n_layers} layers × {_N_POS} positions, float32"
    return table(title, medians, "loop of run_with_hooks")


def bench_attribution(title: str, sizes: dict[str, Any], n_tokens: int, seconds: float) -> str:
    """Attribution patching in plain forwards; the clean run is part of it."""
    with tempfile.TemporaryDirectory() as scratch:
        b = bezel.Bridge.from_pretrained(str(make_checkpoint(sizes, torch.float32, Path(scratch))))
    corrupted, clean = torch.randint(3, sizes["vocab_size"], (2, 1, n_tokens))
    medians = median_ms(
        {
            "forward": lambda: b(corrupted),
            "attribution, stream values": lambda: attribution_patch(
                b, corrupted, clean, metric, STREAM
            ),
            "the same, last position's logits only": lambda: attribution_patch(
                b, corrupted, clean, metric, STREAM, logits_to_keep=1
            ),
            "attribution, all names": lambda: attribution_patch(b, corrupted, clean, metric),
        },
        seconds,
    )
    in_forwards = [f"{name} {ms / medians['forward']:.2f}" for name, ms in medians.items()]
    return table(title, medians, "forward", f"In plain forwards: {', '.join(in_forwards)}.")
