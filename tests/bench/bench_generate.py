"""The speed of generation, as ratios to transformers' in the same process."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from models import load_reference, make_checkpoint
from report import table
from timing import median_ms

import bezel

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
