"""Peak memory, beside the loaded model, of one loss and its gradient at the last block's stream.

Prints one JSON object: bytes, seconds, the loss and the gradient's norm.
usage: memory_loss.py bezel|transformers FOLDER N_TOKENS
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memory import peak_bytes
from models import load_reference


def of_bezel(folder: Path) -> Any:
    import bezel

    b = bezel.Bridge.from_pretrained(str(folder))
    name = f"blocks.{b.cfg.n_layers - 1}.hook_resid_post"

    def run(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss, cache = b.run_with_cache(tokens, name, incl_bwd=True, return_type="loss")
        return loss, cache[f"{name}_grad"]

    return run


def of_transformers(folder: Path) -> Any:
    model = load_reference(folder, torch.bfloat16).requires_grad_(False)
    kept = []

    def keep(module: Any, given: Any, output: Any) -> Any:
        kept.append(output.detach().requires_grad_(True))
        return kept[-1]

    model.model.layers[-1].register_forward_hook(keep)

    def run(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = model(tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        return loss, kept[-1].grad

    return run


def main() -> int:
    engine, folder, n_tokens = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    run = {"bezel": of_bezel, "transformers": of_transformers}[engine](folder)
    tokens = torch.randint(3, 200_000, (1, n_tokens), generator=torch.Generator().manual_seed(0))
    run(tokens[:, :16])  # code and thread pools
    before, start = peak_bytes(), time.perf_counter()
    loss, gradient = run(tokens)
    report = {
        "extra": peak_bytes() - before,
        "seconds": time.perf_counter() - start,
        "loss": loss.item(),
        "norm": gradient.float().norm().item(),
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
