"""How long patching takes, in plain loops and plain forwards: run beside bench.py.

PYTHONPATH=build/python .venv/bin/python tests/bench/bench_patching.py [--seconds 20] [--threads 1]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from report import table
from timing import median_ms

import bezel
from bench import E2B_WIDTH, TINY, make_checkpoint
from bezel.patching import attribution_patch, get_act_patch_resid_pre
from support.sweeps import plain_sweep

_NANO = Path(__file__).resolve().parents[1] / "data" / "nano"
_N_POS = 16
STREAM = [f"blocks.*.hook_{part}" for part in ("resid_pre", "attn_out", "mlp_out", "ple_out")]


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[0, -1, 5] - logits[0, -1, 9]


def bench_sweep(seconds: float) -> str:
    """10 layers × 16 positions of the trained miniature."""
    b = bezel.Bridge.from_pretrained(str(_NANO))
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
    return table(title, medians, "forward")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each table")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--only", choices=["sweep", "tiny", "e2b"], help="one table")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    seconds = arguments.seconds
    tables = {
        "sweep": lambda: bench_sweep(seconds),
        "tiny": lambda: bench_attribution(
            "Attribution, tiny: 64 tokens, float32", TINY, 64, seconds
        ),
        "e2b": lambda: bench_attribution(
            "Attribution, E2B width: 10 layers, 256 tokens, float32", E2B_WIDTH, 256, seconds
        ),
    }
    for name, make in tables.items():
        if arguments.only in (None, name):
            print(make(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
