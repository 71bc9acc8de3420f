"""Memory of a loss and its gradient with a large vocabulary, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from bench_verify import SIZES
from models import make_checkpoint

N_TOKENS = 2048
_MIB = 2**20


def bench_loss() -> str:
    """Beside transformers: loss, and its gradient at the last block's stream."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_checkpoint(SIZES, torch.bfloat16, Path(scratch))
        script = Path(__file__).with_name("memory_loss.py")
        reports = {}
        for engine in ("transformers", "bezel"):
            words = [sys.executable, str(script), engine, str(folder), str(N_TOKENS)]
            answer = subprocess.run(words, check=True, capture_output=True, text=True)
            reports[engine] = json.loads(answer.stdout)
    of_peer, n_words = reports["transformers"]["extra"], SIZES["vocab_size"]
    lines = [
        f"### Loss and gradient: {N_TOKENS} tokens, {n_words:,} words, 4 layers, bfloat16",
        "", "| | peak beside the model, MiB | of transformers' | loss |", "|---|---:|---:|---:|",
    ]  # fmt: skip
    lines += [
        f"| {name} | {one['extra'] / _MIB:.0f} | {one['extra'] / of_peer:.3f} | {one['loss']:.4f} |"
        for name, one in reports.items()
    ]
    return "\n".join([*lines, ""])
