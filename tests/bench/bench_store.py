"""Dumps and reads of stores, as ratios to the plain forward, to the disk, to a loop with h5py."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from models import E2B_WIDTH, NANO, make_checkpoint
from timing import median_ms

import bezel

BATCH, LENGTH = 8, 128
RESIDUALS = "blocks.*.hook_resid_post"
READ_ROWS, READ_WIDTH = 1 << 19, 1536  # of bfloat16: 1.5 GiB
_ROWS_AT_ONCE = 1 << 13  # that is 24 MiB
_BLOCK = 1 << 22


class Scratch:
    """A folder for what a round writes; emptied before each."""

    def __init__(self, root: str) -> None:
        self.folder = Path(root)
        self.numbers = itertools.count()
        self.last = self.folder / "none"

    def fresh(self) -> Path:
        shutil.rmtree(self.last, ignore_errors=True)
        self.last = self.folder / str(next(self.numbers))
        return self.last


def bench_dump(
    title: str, b: Any, n_batches: int, names: str, scratch: Scratch, seconds: float
) -> str:
    """Tokens a second of a dump, of the plain forward, and of a loop that appends to h5py."""
    tokens = torch.randint(3, b.cfg.d_vocab // 2, (BATCH * n_batches, LENGTH))
    n_bytes = b.plan((BATCH * n_batches, LENGTH), names).cache_bytes

    def forward() -> None:
        for batch in tokens.split(BATCH):
            b.run_with_cache(batch, names, return_type=None)

    def dump() -> None:
        bezel.dump(
            b, tokens, scratch.fresh(), names, batch=BATCH, length=LENGTH,
            rows_per_shard=tokens.numel() // 4, verbose=False,
        )  # fmt: skip

    def append() -> None:
        append_to_h5py(b, tokens, names, scratch.fresh())

    def raw() -> None:
        write_raw(scratch.fresh(), n_bytes)

    runs: dict[str, Callable[[], None]] = {
        "forward": forward, "dump": dump, "h5py": append, "raw": raw,
    }  # fmt: skip
    ms = median_ms(runs, seconds)
    slower = max(ms["forward"], ms["raw"])
    lines = [
        f"### {title}: {n_bytes / 1e6:.0f} MB of {tokens.numel()} tokens", "",
        "| | ms | dump / it |", "|---|---:|---:|",
        row("dump", ms["dump"], ms["dump"]),
        row("forward, same early stop, values kept", ms["forward"], ms["dump"]),
        row("the same bytes written and synced", ms["raw"], ms["dump"]),
        row("the slower of the two", slower, ms["dump"]),
        row("a loop that appends to h5py", ms["h5py"], ms["dump"]),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def row(name: str, ms: float, of_dump: float) -> str:
    return f"| {name} | {ms:.1f} | {ms / of_dump:.2f} |"


def append_to_h5py(b: Any, tokens: torch.Tensor, names: str, folder: Path) -> None:
    """Runs of a model, and their values appended."""
    append_all(
        (
            dict(b.run_with_cache(batch, names, return_type=None)[1])
            for batch in tokens.split(BATCH)
        ),
        folder,
    )


def append_all(batches: Iterable[dict[str, torch.Tensor]], folder: Path) -> None:
    """What people write: a resizable, chunked dataset a name, one append a batch, and a flush."""
    folder.mkdir()
    with h5py.File(folder / "acts.h5", "w") as file:
        for batch in batches:
            for name, value in batch.items():
                rows = value.flatten(0, -2).float().numpy()
                if name not in file:
                    shape = (0, *rows.shape[1:])
                    file.create_dataset(name, shape, maxshape=(None, *shape[1:]), dtype="f4")
                at = len(file[name])
                file[name].resize(at + len(rows), axis=0)
                file[name][at:] = rows
        file.flush()
        os.fsync(file.id.get_vfd_handle())


def write_raw(folder: Path, n_bytes: int) -> None:
    folder.mkdir()
    block = memoryview(np.random.default_rng(0).bytes(_BLOCK))
    with (folder / "raw").open("wb", buffering=0) as file:
        for left in range(n_bytes, 0, -_BLOCK):
            file.write(block[:left])
        os.fsync(file.fileno())


def bench_reading(scratch: Scratch, seconds: float) -> str:
    """Slices and batches beside a plain read of the same files, from the disk and from memory."""
    store = made_store(scratch)
    n_bytes = READ_ROWS * READ_WIDTH * 2
    runs = {
        "cat": lambda: read_plainly(store.path),
        "slices, no checksums": lambda: read_slices(store.path, "never"),
        "slices, each block compared": lambda: read_slices(store.path, "first"),
        "batches in order, each block compared": lambda: read_batches(store.path, False, "first"),
        "shuffled batches, no checksums": lambda: read_batches(store.path, True, "never"),
        "shuffled batches, each block compared": lambda: read_batches(store.path, True, "first"),
    }
    from_memory = median_ms(runs, seconds)
    from_disk = median_ms({name: cold(store.path, run) for name, run in runs.items()}, seconds)
    lines = [
        f"### Reading {n_bytes / 1e6:.0f} MB", "",
        "| | from disk, GB/s | × cat | from memory, GB/s | × cat |", "|---|---:|---:|---:|---:|",
    ]  # fmt: skip
    for name in runs:
        cells = [
            f"{n_bytes / ms[name] / 1e6:.2f} | {ms['cat'] / ms[name]:.2f}"
            for ms in (from_disk, from_memory)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def cold(folder: Path, run: Callable[[], None]) -> Callable[[], None]:
    """The same after the system has forgotten the files."""

    def forgetful() -> None:
        for path in folder.glob("shard*"):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        run()

    return forgetful


def read_plainly(folder: Path) -> None:
    buffer = bytearray(_BLOCK)
    for path in sorted(folder.glob("shard*")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def read_slices(folder: Path, checksum: Any) -> None:
    store = bezel.ActivationStore(folder, out="torch", checksum=checksum)
    assert all(len(store["x"][at : at + 4096]) for at in range(0, READ_ROWS, 4096))


def read_batches(folder: Path, shuffle: bool, checksum: Any) -> None:
    store = bezel.ActivationStore(folder, checksum=checksum)
    batches = store.iter_batches("x", 4096, shuffle=shuffle, buffer_rows=32768)
    assert all(len(batch["x"]) for batch in batches)


def bench_writing(scratch: Scratch, seconds: float) -> str:
    """The writer without a model, beside a plain file, and beside a loop that appends to h5py."""
    rows = torch.randn(_ROWS_AT_ONCE, READ_WIDTH).bfloat16()
    n_bytes = READ_ROWS * READ_WIDTH * 2
    runs: dict[str, Callable[[], None]] = {
        "the same bytes written and synced": lambda: write_raw(scratch.fresh(), n_bytes),
        "writer": lambda: write_store(scratch.fresh(), rows),
        "a loop that appends to h5py": lambda: append_all(
            ({"x": rows} for _ in range(READ_ROWS // _ROWS_AT_ONCE)), scratch.fresh()
        ),
    }
    ms = median_ms(runs, seconds)
    lines = [
        f"### Writing {n_bytes / 1e6:.0f} MB of bfloat16", "",
        "| | GB/s | writer / it |", "|---|---:|---:|",
    ]  # fmt: skip
    lines += [f"| {n} | {n_bytes / ms[n] / 1e6:.2f} | {ms[n] / ms['writer']:.2f} |" for n in runs]
    return "\n".join([*lines, ""])


def made_store(scratch: Scratch) -> bezel.ActivationStore:
    """Rows of random numbers, without a model."""
    folder = scratch.folder / "rows"
    write_store(folder, torch.randn(_ROWS_AT_ONCE, READ_WIDTH).bfloat16())
    os.sync()
    return bezel.ActivationStore(folder)


def write_store(folder: Path, rows: torch.Tensor) -> None:
    """The same rows again and again, in four shards."""
    from bezel import _C

    manifest = _C.StoreManifest(
        total_rows=READ_ROWS, rows_per_shard=READ_ROWS // 4, has_types=False,
        values=[_C.StoreValue("x", ["d_model"], [READ_WIDTH], "bfloat16")], request="{}",
    )  # fmt: skip
    writer = _C.StoreWriter(
        folder, manifest, start="new", rank=0, n_ranks=1, run="", queue_bytes=64 << 20
    )
    for shard in writer.todo:
        first, n = writer.rows_of(shard)
        writer.begin(shard)
        for _ in range(0, n, len(rows)):
            writer.put("x", rows)
        writer.put("token_id", torch.zeros(n, dtype=torch.int32))
        writer.put("document", torch.arange(first, first + n))
        writer.put("position", torch.zeros(n, dtype=torch.int32))
    writer.finish()
    writer.close()


def bench_stores(seconds: float) -> str:
    """All tables."""
    with tempfile.TemporaryDirectory() as root:
        scratch = Scratch(root)
        nano = bezel.Bridge.from_pretrained(str(NANO))
        wide = make_checkpoint(E2B_WIDTH, torch.bfloat16, Path(root) / "model")
        e2b = bezel.Bridge.from_pretrained(str(wide), dtype=torch.bfloat16)
        one = "blocks.4.hook_resid_post"
        return "\n".join(
            [
                bench_dump("Dump, miniature, one name", nano, 240, one, scratch, seconds),
                bench_dump(
                    "Dump, miniature, all residuals", nano, 120, RESIDUALS, scratch, seconds
                ),
                bench_dump("Dump, E2B width, one name", e2b, 6, one, scratch, seconds),
                bench_dump("Dump, E2B width, all residuals", e2b, 3, RESIDUALS, scratch, seconds),
                bench_writing(scratch, seconds),
                bench_reading(scratch, seconds),
            ]
        )
