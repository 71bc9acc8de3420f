"""Does a long dump's memory grow? `soak_store.py [--minutes 10] [--folder FOLDER]`.

Dumps one name of the miniature for some minutes, removing what it wrote, and prints the resident
memory each tenth of the time. It may hold two batches of the recorded name and 256 MiB beside what
the process had when the model was loaded. `make bench` leaves it out.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from models import NANO

import bezel

NAME, BATCH, LENGTH = "blocks.4.hook_resid_post", 8, 128
_MIB = 2**20
_ALLOWED = 256 * _MIB


def resident_bytes() -> int:
    """Of this process, now, without the pages of files, which the system takes back at will."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if "RssAnon" in line)


class StopError(Exception):
    """The time is over."""


class Watcher:
    """Notes resident bytes in a thread of its own."""

    def __init__(self, seconds: float) -> None:
        """Every so many seconds, beside what there is now."""
        self.seconds, self.before, self.notes = seconds, resident_bytes(), list[int]()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.ended.wait(self.seconds):
            self.notes.append(resident_bytes() - self.before)

    def __enter__(self) -> Watcher:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()


def dump_until(deadline: float, b: bezel.Bridge, folder: Path, n_rows: int) -> int:
    """How many shards were sealed by then; they are removed."""
    run = bezel.Bridge.run_with_cache

    def until_then(*given: object, **options: object) -> object:
        if time.monotonic() > deadline:
            raise StopError
        return run(*given, **options)  # type: ignore[arg-type]

    bezel.Bridge.run_with_cache = until_then  # type: ignore[method-assign, assignment]
    tokens = np.random.default_rng(0).integers(3, 200, (n_rows, LENGTH), dtype=np.uint16)
    np.save(folder / "tokens.npy", tokens)
    del tokens
    with contextlib.suppress(StopError):
        bezel.dump(
            b, folder / "tokens.npy", folder / "acts", NAME, batch=BATCH, length=LENGTH,
            rows_per_shard=1 << 18, verbose=False,
        )  # fmt: skip
    return len(list((folder / "acts").glob("shard*.h5")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--folder", type=Path, help="where the store goes")
    arguments = parser.parse_args()
    seconds = 60 * arguments.minutes
    b = bezel.Bridge.from_pretrained(str(NANO))
    with Watcher(seconds / 10) as watcher, tempfile.TemporaryDirectory(dir=arguments.folder) as at:
        n_rows = int(seconds * 1000) + 1000  # more than any machine runs in the time
        n_shards = dump_until(time.monotonic() + seconds, b, Path(at), n_rows)
    allowed = 2 * BATCH * LENGTH * b.cfg.d_model * 4 + _ALLOWED
    print(f"{arguments.minutes:g} minutes, {n_shards} sealed shards of 100 MB")
    print(
        "resident beside the loaded model, MiB:", " ".join(f"{n / _MIB:.0f}" for n in watcher.notes)
    )
    print(f"allowed (two batches, 256 MiB): {allowed / _MIB:.0f} MiB")
    return 0 if max(watcher.notes) <= allowed else 1


if __name__ == "__main__":
    sys.exit(main())
