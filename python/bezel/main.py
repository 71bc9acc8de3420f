"""The command `bezel`.

bezel reference MODEL --out ref.h5
bezel dump MODEL --corpus texts.jsonl --hooks 'blocks.*.hook_resid_post' --out acts/
bezel store check acts/
bezel hooks MODEL [--like q]

Exit codes: 0 done, 1 a store is damaged, 2 bad usage or input, 3 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bezel import errors
from bezel.bridge import Bridge
from bezel.dump import command as dump_command
from bezel.reference import NEW_TOKENS, Sample, capture_reference
from bezel.store import command as store_command

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 3
_AFTER = {
    "reference": "; nothing was written",
    "dump": "; what is sealed stays, --resume goes on",
}


def show_hooks(arguments: argparse.Namespace) -> None:
    """Prints every named value of a model."""
    b = Bridge.from_pretrained(arguments.model, local_files_only=arguments.local_files_only)
    points = [point for point in b.hook_points() if arguments.like in point.name]
    if not points:
        raise errors.UnknownHookError(f"no name of {arguments.model} holds {arguments.like!r}")
    width = max(len(point.name) for point in points)
    for point in points:
        sizes = " ".join(
            axis if size is None or str(size) == axis else f"{axis}={size}"
            for axis, size in zip(point.axes, point.shape, strict=True)
        )
        mark = "" if point.access == "edit" else "on demand"
        print(f"{point.name:<{width}}  {f'[{sizes}]':<40} {mark:<9} {point.doc}".rstrip())


def make_reference(arguments: argparse.Namespace) -> None:
    """Runs transformers and writes what it computes."""
    sample = None if arguments.sample is None else Sample(*arguments.sample)
    path = capture_reference(
        arguments.model,
        arguments.out,
        device=arguments.device,
        sample=sample,
        new_tokens=arguments.new_tokens,
        layer_by_layer=True if arguments.layer_by_layer else None,
        verbose=not arguments.quiet,
    )
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bezel", description="Gemma 4 with every value named.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    hooks = commands.add_parser("hooks", help="the names of a model's values")
    hooks.add_argument("model", help="folder or hub id")
    hooks.add_argument("--like", default="", metavar="TEXT", help="only names that hold this")
    hooks.add_argument("--local-files-only", action="store_true", help="never ask the hub")
    hooks.set_defaults(run=show_hooks)
    reference = commands.add_parser(
        "reference", help="run transformers once and keep what it computes, for verify_models"
    )
    reference.add_argument("model", help="folder or hub id")
    reference.add_argument("--out", type=Path, required=True, metavar="FILE", help="ref.h5")
    reference.add_argument("--device", default="cpu", help="where transformers runs (cpu)")
    reference.add_argument(
        "--sample", type=int, nargs=2, metavar=("POSITIONS", "DIMS"),
        help="keep so many of each value; default: everything up to 512 MiB",
    )  # fmt: skip
    reference.add_argument(
        "--new-tokens", type=int, default=NEW_TOKENS, metavar="N",
        help=f"of the greedy continuations ({NEW_TOKENS})",
    )  # fmt: skip
    reference.add_argument(
        "--layer-by-layer", action="store_true", help="hold one layer's weights at a time"
    )
    reference.add_argument("--quiet", action="store_true", help="no progress bar")
    reference.set_defaults(run=make_reference)
    dump = commands.add_parser("dump", help="activations of a corpus on disk")
    dump_command.add_arguments(dump)
    dump.set_defaults(run=dump_command.run)
    store_command.add_commands(
        commands.add_parser("store", help="look after stores: check, info, merge, index")
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; None is the process's own. Returns the exit code."""
    parsed = _parser().parse_args(arguments)  # exits with 2 by itself
    try:
        return parsed.run(parsed) or DONE
    except errors.Error as error:
        print(f"bezel {parsed.command}: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(
            f"bezel {parsed.command}: interrupted{_AFTER.get(parsed.command, '')}", file=sys.stderr
        )
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
