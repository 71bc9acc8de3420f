"""The speed tables, as ratios to a peer in the same run: `make bench`.

TransformerLens and nnsight take part where they are installed (`make bench-peers`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench_generate import bench_generation
from bench_loss import bench_loss
from bench_media import media_memory, media_tables
from bench_patching import bench_attribution, bench_sweep
from bench_runs import bench_edits, bench_loading, bench_memory, bench_model
from bench_store import bench_stores
from models import E2B_WIDTH, TINY
from report import write_section

Tables = dict[str, Callable[[], str]]


def speed_tables(seconds: float, programs: Path) -> Tables:
    """Of text, by the name that --only takes."""
    return {
        "tiny": lambda: bench_model(
            "Tiny: 10 layers, width 128, 64 tokens, float32", TINY, torch.float32, 64, seconds
        ),
        "e2b": lambda: bench_model(
            "E2B width: 10 layers, 256 tokens, bfloat16", E2B_WIDTH, torch.bfloat16, 256, seconds
        ),
        "edits": lambda: bench_edits(programs, seconds),
        "generation-tiny": lambda: bench_generation(
            "Generation, tiny: 32 + 64 tokens, float32", TINY, torch.float32, (32, 64), seconds
        ),
        "generation-e2b": lambda: bench_generation(
            "Generation, E2B width: 64 + 16 tokens, bfloat16",
            E2B_WIDTH, torch.bfloat16, (64, 16), seconds,
        ),
        "patching": lambda: bench_sweep(seconds),
        "attribution-tiny": lambda: bench_attribution(
            "Attribution patching, tiny: 64 tokens, float32", TINY, 64, seconds
        ),
        "attribution-e2b": lambda: bench_attribution(
            "Attribution patching, E2B width: 256 tokens, float32", E2B_WIDTH, 256, seconds
        ),
        "loading": lambda: bench_loading(seconds),
        "memory": bench_memory,
        "memory-loss": bench_loss,
    }  # fmt: skip


def sections(seconds: float, programs: Path) -> dict[str, Tables]:
    """The tables of each section of a page."""
    media: Tables = {"media": lambda: media_tables(seconds), "memory-media": media_memory}
    stores: Tables = {"store": lambda: bench_stores(seconds)}
    return {
        "speed": speed_tables(seconds, programs),
        "speed of encoders": media,
        "speed of stores": stores,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each table of times")
    names = [name for made in sections(0, Path()).values() for name in made]
    parser.add_argument("--only", choices=names, nargs="+", default=names, help="some tables")
    parser.add_argument("--write", type=Path, help="put whole sections between this file's marks")
    parser.add_argument("--programs", type=Path, default=Path("build/tests"), help="the C++ ones")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    head = f"torch {torch.__version__}, {torch.get_num_threads()} threads.\n"
    print(head, flush=True)
    for section, tables in sections(arguments.seconds, arguments.programs).items():
        texts = [head]
        for name, make in tables.items():
            if name in arguments.only:
                texts.append(make())
                print(texts[-1], flush=True)
        if arguments.write and tables.keys() <= set(arguments.only):
            write_section(arguments.write, section, "\n".join(texts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
