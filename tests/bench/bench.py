"""The speed tables, as ratios to transformers in the same process: `make bench`.

TransformerLens and nnsight take part where they are installed (`make bench-peers`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from report import table, write_section
from timing import Contender, median_ms

import bezel
from support.randomise import randomise

_PEER = "transformers"
_NANO = Path(__file__).resolve().parents[1] / "data" / "nano"
LAYER_TYPES = (["sliding_attention"] * 4 + ["full_attention"]) * 2
TINY = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 10,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32, "global_head_dim": 64,
    "sliding_window": 24, "num_kv_shared_layers": 4, "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 16, "vocab_size": 512, "vocab_size_per_layer_input": 512,
    "final_logit_softcapping": 30.0, "layer_types": LAYER_TYPES,
}  # fmt: skip
E2B_WIDTH = {
    "hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 10,
    "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256, "global_head_dim": 512,
    "sliding_window": 512, "num_kv_shared_layers": 4, "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 256, "vocab_size": 32768, "vocab_size_per_layer_input": 32768,
    "final_logit_softcapping": 30.0, "layer_types": LAYER_TYPES,
}  # fmt: skip


def make_checkpoint(sizes: dict[str, Any], dtype: torch.dtype, folder: Path) -> Path:
    """A checkpoint of these sizes with random weights."""
    torch.manual_seed(0)
    config = transformers.Gemma4TextConfig(**sizes)
    model = transformers.Gemma4ForCausalLM(config).to(dtype).eval()
    randomise(model, seed=0)
    model.save_pretrained(folder)
    return folder


def load_reference(folder: Path, dtype: torch.dtype) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="sdpa"
    ).eval()


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
            tokenizer=transformers.AutoTokenizer.from_pretrained(_NANO),  # it insists on one
            dtype=dtype,
            device="cpu",
        )
        found["TransformerLens forward"] = lambda: lens(tokens)
        found["TransformerLens run_with_cache"] = lambda: lens.run_with_cache(tokens)
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each table of times")
    parser.add_argument("--only", choices=["tiny", "e2b", "loading", "memory"], help="one table")
    parser.add_argument("--write", type=Path, help="put the tables between this file's marks")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    seconds = arguments.seconds
    tables: dict[str, Callable[[], str]] = {
        "tiny": lambda: bench_model(
            "Tiny: 10 layers, width 128, 64 tokens, float32", TINY, torch.float32, 64, seconds
        ),
        "e2b": lambda: bench_model(
            "E2B width: 10 layers, 256 tokens, bfloat16", E2B_WIDTH, torch.bfloat16, 256, seconds
        ),
        "loading": lambda: bench_loading(seconds),
        "memory": bench_memory,
    }
    texts = [f"torch {torch.__version__}, {torch.get_num_threads()} threads.\n"]
    print(texts[0], flush=True)
    for name, make in tables.items():
        if arguments.only in (None, name):
            texts.append(make())
            print(texts[-1], flush=True)
    if arguments.write:
        write_section(arguments.write, "speed", "\n".join(texts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
