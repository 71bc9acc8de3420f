"""`bezel dump`, and `python -m bezel.dump` under torchrun."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bezel.bridge import Bridge
from bezel.dump import BATCH, LENGTH, dump
from bezel.dump.batches import LAST, NOT_BOS
from bezel.dump.ranks import find_rank
from bezel.token_types import WORDS

_DTYPES = {
    "bfloat16": torch.bfloat16, "bf16": torch.bfloat16, "float32": torch.float32,
    "float64": torch.float64,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a dump."""
    add = parser.add_argument
    add("model", help="folder or hub id")
    add(
        "--corpus",
        required=True,
        type=Path,
        metavar="PATH",
        help=".npy or .npz (ids), .jsonl, .txt, or the folder of a Hugging Face dataset",
    )
    add(
        "--hooks",
        default=(),
        nargs="+",
        metavar="NAME",
        help="names or globs: 'blocks.*.hook_resid_post'",
    )
    add(
        "--reduce",
        default={},
        nargs="+",
        action=_Kinds,
        metavar="NAME=KINDS",
        help="norm, top:8, mean, variance, covariance: 'blocks.*.hook_resid_post=norm,mean'",
    )
    add("--out", required=True, type=Path, metavar="FOLDER", help="the store")
    add(
        "--positions",
        "--pos",
        type=_positions,
        metavar="WHICH",
        help=f'start:stop:step, numbers with commas, "{LAST}", "{NOT_BOS}", image,video … (all)',
    )
    _add_how(add)


def _add_how(add: Callable[..., Any]) -> None:
    """How it is run and stored."""
    add("--dtype", choices=_DTYPES, help="of stored values (as computed)")
    add("--model-dtype", choices=_DTYPES, help="in which the model computes (as stored)")
    add("--batch", type=int, default=BATCH, metavar="N", help=f"rows of a run ({BATCH})")
    add("--length", type=int, default=LENGTH, metavar="N", help=f"tokens of a row ({LENGTH})")
    add("--pack", action="store_true", help="full rows, whatever documents they join")
    add("--column", metavar="NAME", help="the field of JSON lines and datasets")
    add("--no-bos", action="store_true", help="texts without <bos>")
    add("--shard-rows", type=int, metavar="N", help="rows of a file (half a gigabyte)")
    add("--resume", action="store_true", help="go on where an earlier run stopped")
    add("--repair", action="store_true", help="make damaged and missing shards again")
    add("--device", help='"cpu", "cuda", "cuda:1" (a GPU for each local rank, where there are any)')
    add("--local-files-only", action="store_true", help="never ask the hub")
    add("--quiet", action="store_true", help="no progress")


def run(arguments: argparse.Namespace) -> None:
    """Loads the model and dumps."""
    rank = find_rank()
    b = Bridge.from_pretrained(
        arguments.model,
        dtype=_DTYPES.get(arguments.model_dtype),
        device=arguments.device or _device_of(rank.local),
        local_files_only=arguments.local_files_only,
    )
    report = dump(
        b,
        arguments.corpus,
        arguments.out,
        arguments.hooks,
        reduce=arguments.reduce,
        positions=arguments.positions,
        dtype=_DTYPES.get(arguments.dtype),
        batch=arguments.batch,
        length=arguments.length,
        pack=arguments.pack,
        column=arguments.column,
        prepend_bos=False if arguments.no_bos else None,
        rows_per_shard=arguments.shard_rows,
        resume=arguments.resume,
        repair=arguments.repair,
        rank=rank,
        verbose=not arguments.quiet,
    )
    print(f"{report.path}: {report.rows:,} rows in {report.shards} shards, "
          f"{report.n_bytes / 1e6:.1f} MB, {report.seconds:.1f} s; "
          f"the store is to have {report.total_rows:,} rows")  # fmt: skip


class _Kinds(argparse.Action):
    """NAME=KIND,KIND … as a dict."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        """Refuses what has no name or no kind."""
        found = {}
        for given in values:
            name, _, kinds = given.partition("=")
            if not name or not kinds:
                parser.error(f"--reduce {given!r}; wanted NAME=KIND,KIND …")
            found[name] = kinds.split(",")
        setattr(namespace, self.dest, found)


def _device_of(local_rank: int) -> str:
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{local_rank % torch.cuda.device_count()}"


def _positions(text: str) -> Any:
    if text in (LAST, NOT_BOS):
        return text
    try:
        if ":" in text:
            return slice(*(int(part) if part else None for part in text.split(":")))
        parts = text.split(",")
        return parts if set(parts) <= set(WORDS) else [int(part) for part in parts]
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(
            f'{text!r}; wanted start:stop:step, "{LAST}", "{NOT_BOS}", or with commas numbers or '
            f"{', '.join(WORDS)}"
        ) from None
