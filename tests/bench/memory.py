"""Peak memory of one process that loads a model and keeps every value of one run.

What torch itself takes at its first run (code, thread pools) is left out: a miniature runs first.
Prints one JSON object of bytes. usage: memory.py FOLDER N_TOKENS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import bezel

_NANO = Path(__file__).resolve().parents[1] / "data" / "nano"


def peak_bytes() -> int:
    """Of this process alone; getrusage would count what its parent held before exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main() -> int:
    folder, n_tokens = sys.argv[1], int(sys.argv[2])
    bezel.Bridge.from_pretrained(str(_NANO), dtype=torch.bfloat16).run_with_cache("Of 7")
    before = peak_bytes()
    b = bezel.Bridge.from_pretrained(folder)
    loaded = peak_bytes()
    with torch.no_grad():
        tokens = torch.randint(3, b.cfg.d_vocab, (1, n_tokens))
        planned = b.plan((1, n_tokens)).cache_bytes
        _, cache = b.run_with_cache(tokens)
    assert len(cache) > 0
    element = torch.empty(0, dtype=b.dtype).element_size()
    report = {
        "weights": b.n_parameters * element,
        "loaded": loaded - before,
        "planned_cache": planned,
        "peak": peak_bytes() - before,
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
