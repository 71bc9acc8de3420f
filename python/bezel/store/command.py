"""`bezel store check | info | index | merge`: what the C++ program bezel_store does, without it."""

from __future__ import annotations

import argparse
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bezel import _C
from bezel.store.progress import shard_bar

SOUND, DAMAGED = 0, 1


def add_commands(parser: argparse.ArgumentParser) -> None:
    """The commands of `bezel store`."""
    commands = parser.add_subparsers(dest="what", required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="is it what its writer wrote? exit 1 where it is not")
    check.add_argument("--full", action="store_true", help="read every byte")
    check.set_defaults(run=run_check)
    info = commands.add_parser("info", help="what it holds, and how far it is")
    info.set_defaults(run=run_info)
    index = commands.add_parser("index", help="write index.h5, which shows all shards as one")
    index.set_defaults(run=run_index)
    for command in (check, info, index):
        command.add_argument("store", type=Path, help="a folder with a MANIFEST.json")
    merge = commands.add_parser("merge", help="stores of one manifest or corpus into one")
    merge.add_argument("store", type=Path, nargs="+", help="folders, two or more")
    merge.add_argument("--out", type=Path, required=True, help="the folder to write")
    merge.set_defaults(run=run_merge)


def run_check(arguments: argparse.Namespace) -> int:
    """Prints a line for each finding, and whether the store is sound."""
    with shard_bar("reading") as advance:
        findings, n_rows, total = _C.store_check(arguments.store, arguments.full, advance)
    for is_damage, file, what in findings:
        print(f"{'' if is_damage else 'note: '}{file}: {what}")
    is_sound = not any(is_damage for is_damage, *_ in findings)
    print(
        f"{arguments.store}: {'sound' if is_sound else 'DAMAGED'}, "
        f"{'complete' if n_rows == total else 'unfinished'}, {n_rows} of {total} rows"
        + ("" if arguments.full else "; --full reads every byte")
        + ("" if is_sound else "; `bezel dump … --repair` makes what is damaged again")
    )
    return SOUND if is_sound else DAMAGED


def run_info(arguments: argparse.Namespace) -> int:
    """Prints names, axes, rows, bytes, progress and settings."""
    print(_C.store_info(arguments.store), end="")
    return SOUND


def run_index(arguments: argparse.Namespace) -> int:
    """Writes index.h5."""
    _C.store_index(arguments.store)
    return SOUND


def run_merge(arguments: argparse.Namespace) -> int:
    """Joins stores."""
    stopped = threading.Event()
    with shard_bar("merging") as advance, ThreadPoolExecutor(1) as pool:

        def unless_stopped(done: int, all_of_them: int) -> None:
            if stopped.is_set():
                raise KeyboardInterrupt
            advance(done, all_of_them)

        # Python hears Ctrl-C in its main thread alone, which must not wait inside the core.
        merging = pool.submit(_C.store_merge, arguments.store, arguments.out, unless_stopped)
        try:
            merging.result()
        except KeyboardInterrupt:
            stopped.set()
            raise
    return SOUND
