"""The speed of generation, as ratios to transformers' in the same process."""

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
from bench import E2B_WIDTH, TINY, load_reference, make_checkpoint

_PEER = "transformers generate"


def bench_generation(
    title: str, sizes: dict[str, Any], dtype: torch.dtype, n: tuple[int, int], seconds: float
) -> str:
    """n: tokens of the prompt, and new ones."""
    n_prompt, n_new = n
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        folder = make_checkpoint(sizes, dtype, Path(scratch))
        b = bezel.Bridge.from_pretrained(str(folder))
        reference = load_reference(folder, dtype)
        tokens = torch.randint(3, sizes["vocab_size"], (1, n_prompt))
        mask = torch.ones_like(tokens)
        arguments: dict[str, Any] = {"stop_at_eos": False, "verbose": False}

        def of_transformers() -> None:
            reference.generate(
                tokens, attention_mask=mask, do_sample=False, max_new_tokens=n_new,
                eos_token_id=None, pad_token_id=0,
            )  # fmt: skip

        def double(value: torch.Tensor, hook: bezel.Hook) -> torch.Tensor:
            return value * 2

        def hooked() -> None:
            with b.hooks([("blocks.5.hook_mlp_out", double)]):
                b.generate(tokens, n_new, **arguments)

        medians = median_ms(
            {
                _PEER: of_transformers,
                "bezel generate": lambda: b.generate(tokens, n_new, **arguments),
                "bezel generate, one edit": hooked,
                "bezel generate, resid_post kept": lambda: b.generate(
                    tokens, n_new, return_cache=True, names_filter="blocks.*.hook_resid_post",
                    **arguments,
                ),
            },
            seconds,
        )  # fmt: skip
    rates = [f"{name} {n_new / ms * 1e3:.0f}" for name, ms in medians.items()]
    return table(title, medians, _PEER, "New tokens a second: " + ", ".join(rates) + ".")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each table")
    parser.add_argument("--only", choices=["tiny", "e2b"], help="one table")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads.\n", flush=True)
    if arguments.only in (None, "tiny"):
        print(bench_generation(
            "Generation, tiny: 10 layers, width 128, 32 + 64 tokens, float32",
            TINY, torch.float32, (32, 64), arguments.seconds,
        ), flush=True)  # fmt: skip
    if arguments.only in (None, "e2b"):
        print(bench_generation(
            "Generation, E2B width: 10 layers, 64 + 16 tokens, bfloat16",
            E2B_WIDTH, torch.bfloat16, (64, 16), arguments.seconds,
        ), flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
