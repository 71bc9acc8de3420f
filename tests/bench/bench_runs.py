"""Forward, caches, edits, loading and memory beside transformers and the libraries like bezel."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from models import E2B_WIDTH, NANO, load_reference, make_checkpoint
from report import table
from timing import Contender, median_ms

import bezel

_PEER = "transformers"
_EDITED = "blocks.5.hook_resid_post"


def steer(value: torch.Tensor, hook: Any) -> torch.Tensor:
    """The edit of the tables: a vector's worth of steering at the last position."""
    value[:, -1] += 1
    return value


def peers(folder: Path, dtype: torch.dtype, tokens: torch.Tensor) -> dict[str, Contender]:
    """Forward and run_with_cache of the libraries that are installed."""
    found: dict[str, Contender] = {}
    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError:
        pass
    else:
        lens = TransformerBridge.boot_transformers(
            str(folder),
            hf_model=load_reference(folder, dtype),
            tokenizer=transformers.AutoTokenizer.from_pretrained(NANO),  # it insists on one
            dtype=dtype,
            device="cpu",
        )
        found["TransformerLens forward"] = lambda: lens(tokens)
        found["TransformerLens run_with_cache"] = lambda: lens.run_with_cache(tokens)
        found["TransformerLens run_with_hooks, one edit"] = lambda: lens.run_with_hooks(
            tokens, fwd_hooks=[(_EDITED, steer)]
        )
    try:
        import nnsight
    except ImportError:
        pass
    else:
        wrapped = nnsight.NNsight(load_reference(folder, dtype))

        def trace() -> None:
            with wrapped.trace(tokens):
                wrapped.lm_head.output.save()

        found["nnsight trace of the logits"] = trace
    return found


def bench_model(
    title: str, sizes: dict[str, Any], dtype: torch.dtype, n_tokens: int, seconds: float
) -> str:
    """One model: forward, caches, peers."""
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        folder = make_checkpoint(sizes, dtype, Path(scratch))
        b = bezel.Bridge.from_pretrained(str(folder))
        reference = load_reference(folder, dtype)
        tokens = torch.randint(3, sizes["vocab_size"], (1, n_tokens))
        contenders: dict[str, Contender] = {
            _PEER: lambda: reference(tokens, use_cache=False),
            "bezel forward": lambda: b(tokens),
            "bezel run_with_cache, resid_post": lambda: b.run_with_cache(
                tokens, "blocks.*.hook_resid_post"
            ),
            "bezel run_with_cache, all names": lambda: b.run_with_cache(tokens),
            "bezel run_with_hooks, one edit": lambda: b.run_with_hooks(tokens, [(_EDITED, steer)]),
        }
        if dtype == torch.float32:
            contenders |= peers(folder, dtype, tokens)
        medians = median_ms(contenders, seconds)
    return table(title, medians, _PEER)


def bench_loading(seconds: float) -> str:
    """Loading against a plain read of the same bytes into fresh memory."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_checkpoint(E2B_WIDTH, torch.bfloat16, Path(scratch))
        file = folder / "model.safetensors"
        contenders: dict[str, Contender] = {
            "plain read": lambda: len(file.read_bytes()),
            "bezel load": lambda: bezel.Bridge.from_pretrained(str(folder)),
            "transformers load": lambda: load_reference(folder, torch.bfloat16),
        }
        medians = median_ms(contenders, seconds)
        size = file.stat().st_size / 2**30
    return table(f"Loading {size:.2f} GiB of bfloat16", medians, "plain read")


def bench_memory() -> str:
    """Peak memory of a process that loads and keeps every value, beside what was foretold."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_checkpoint(E2B_WIDTH, torch.bfloat16, Path(scratch))
        script = Path(__file__).with_name("memory.py")
        answer = subprocess.run(
            [sys.executable, script, folder, "256"], check=True, capture_output=True, text=True
        )
    mib = {name: n / 2**20 for name, n in json.loads(answer.stdout).items()}
    foretold = mib["weights"] + mib["planned_cache"]
    rows = [
        ("weights", mib["weights"]),
        ("peak after loading", mib["loaded"]),
        ("weights + the plan's estimate of all names", foretold),
        ("peak after run_with_cache of all names", mib["peak"]),
    ]
    lines = [
        "### Memory: E2B width, 10 layers, 256 tokens, bfloat16",
        "",
        "| | MiB |",
        "|---|---:|",
    ]
    lines += [f"| {name} | {size:.0f} |" for name, size in rows]
    return "\n".join([*lines, "", f"Peak / foretold: {mib['peak'] / foretold:.3f}.", ""])


def bench_edits(programs: Path, seconds: float) -> str:
    """What one edit costs, in plain forwards: of a Python function, and of a C++ one."""
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        folder = make_checkpoint(E2B_WIDTH, torch.bfloat16, Path(scratch))
        b = bezel.Bridge.from_pretrained(str(folder))
        tokens = torch.randint(3, b.cfg.d_vocab, (1, 256))
        medians = median_ms(
            {
                "forward": lambda: b(tokens),
                "one Python edit": lambda: b.run_with_hooks(tokens, [(_EDITED, steer)]),
            },
            seconds,
        )
        answer = subprocess.run(
            [programs / "edit_bench", folder, _EDITED, str(seconds)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    medians |= json.loads(answer.stdout)
    title = "Edits, E2B width: 10 layers, 256 tokens, bfloat16"
    rows = [
        ("one Python edit", medians["one Python edit"], medians["forward"]),
        ("one C++ edit", medians["one C++ edit"], medians["forward from C++"]),
    ]
    lines = [f"### {title}", "", "| | ms | plain forward, ms | in plain forwards |"]
    lines.append("|---|---:|---:|---:|")
    lines += [f"| {name} | {ms:.2f} | {plain:.2f} | {ms / plain:.3f} |" for name, ms, plain in rows]
    return "\n".join([*lines, ""])
