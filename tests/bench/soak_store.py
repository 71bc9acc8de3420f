"""Does a long dump's memory grow? `soak_store.py [--minutes 10] [--folder FOLDER]`.

Dumps one name of the miniature for some minutes, removing what it wrote, and prints the resident
memory each tenth of the time. It may hold weights, two batches of the recorded name, and 256 MiB
beside what the process had before. `make bench` leaves it out.
"""

from __future__ import annotations

import argparse
import shutil
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--folder", type=Path, help="where the store goes")
    arguments = parser.parse_args()
    before = resident_bytes()
    b = bezel.Bridge.from_pretrained(str(NANO))
    batch_bytes = BATCH * LENGTH * b.cfg.d_model * 4
    weights = sum(w.nbytes for _, w in b.named_weights())
    deadline = time.monotonic() + 60 * arguments.minutes
    run = bezel.Bridge.run_with_cache

    def until_then(*given: object, **options: object) -> object:
        if time.monotonic() > deadline:
            raise StopError
        return run(*given, **options)  # type: ignore[arg-type]

    peaks: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(6 * arguments.minutes):
            peaks.append(resident_bytes() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    rows = int(arguments.minutes * 60 * 1000) + 1000  # more than any machine runs in the time
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        tokens = Path(folder) / "tokens.npy"
        np.save(tokens, np.random.default_rng(0).integers(3, 200, (rows, LENGTH), dtype=np.uint16))
        bezel.Bridge.run_with_cache = until_then  # type: ignore[method-assign, assignment]
        try:
            bezel.dump(
                b, tokens, Path(folder) / "acts", NAME, batch=BATCH, length=LENGTH,
                rows_per_shard=1 << 18, verbose=False,
            )  # fmt: skip
        except StopError:
            pass
        finally:
            ended.set()
            watcher.join()
            n_shards = len(list((Path(folder) / "acts").glob("shard*.h5")))
            shutil.rmtree(folder, ignore_errors=True)
    allowed = weights + 2 * batch_bytes + _ALLOWED
    print(f"{arguments.minutes:g} minutes, {n_shards} sealed shards of 100 MB")
    print("resident beside the start, MiB:", " ".join(f"{peak / _MIB:.0f}" for peak in peaks))
    print(f"allowed (weights, two batches, 256 MiB): {allowed / _MIB:.0f} MiB")
    return 0 if max(peaks) <= allowed else 1


if __name__ == "__main__":
    sys.exit(main())
