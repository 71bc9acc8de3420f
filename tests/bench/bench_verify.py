"""What verification costs: of the miniature, and at the width of E2B with all its words.

    bench_verify.py [--dtype float32] [--program build/verify/verify_models] [--folder FOLDER]

It takes minutes, most of them for the large reference, so `make bench` leaves it out. P1, P2 and P4
of the miniature may take ten seconds; of the large model, P1 may take the time of three plain
forwards of its inputs, and a gigabyte beside the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from models import E2B_WIDTH, make_checkpoint

import bezel

ROOT = Path(__file__).resolve().parents[2]
SIZES = E2B_WIDTH | {
    "num_hidden_layers": 4, "num_kv_shared_layers": 2, "vocab_size": 262144,
    "vocab_size_per_layer_input": 262144,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}  # fmt: skip
_MIB = 2**20


class Cost(NamedTuple):
    """Of one process."""

    seconds: float
    processor_seconds: float
    peak_bytes: int
    output: str


def cost_of(*words: object, threads: int | None = None) -> Cost:
    """Runs a program to its end; `threads` None leaves their number to it."""
    environment = dict(os.environ) | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    start = time.perf_counter()
    child = subprocess.Popen([*map(str, words)], stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{words[0]} ended with {os.waitstatus_to_exitcode(status)}: {output}")
    return Cost(
        time.perf_counter() - start,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * 1024,
        output,
    )


def forwards(folder: Path, dtype: str, rounds: int) -> dict[str, float]:
    """Plain forwards of all inputs of the reference: the median of some rounds, in seconds."""
    b = bezel.Bridge.from_pretrained(str(folder), dtype=getattr(torch, dtype))
    cases = [o.case for o in bezel.reference.read(folder / "reference.h5").outcomes.values()]
    seconds = []
    with torch.no_grad():
        for _ in range(1 + rounds):
            start = time.perf_counter()
            for case in cases:
                b(case.tokens, attention_mask=case.attention_mask)
            seconds.append(time.perf_counter() - start)
    element = torch.empty(0, dtype=b.dtype).element_size()
    return {"seconds": statistics.median(seconds[1:]), "weights": b.n_parameters * element}


def measure(folder: Path, program: Path, dtype: str, rounds: int) -> list[tuple[str, str]]:
    """The rows of the table."""
    own = [sys.executable, __file__, "--folder", folder, "--dtype", dtype]
    own += ["--rounds", rounds, "--do"]
    idle = cost_of(*own, "nothing")
    rows = []
    if not (folder / "reference.h5").exists():
        made = cost_of(*own, "reference")
        rows.append(("reference, s", f"{made.seconds:.0f}"))
        peak = (made.peak_bytes - idle.peak_bytes) / _MIB
        rows.append(("reference, peak beside torch, MiB", f"{peak:.0f}"))
        size = (folder / "reference.h5").stat().st_size / _MIB
        rows.append(("reference, file, MiB", f"{size:.0f}"))
    plain = json.loads(cost_of(*own, "forwards").output)
    record = folder / "record.json"
    runs = []
    for _ in range(rounds):
        words = [program, folder, "--dtype", dtype, "--phases", 1, "--json", record]
        runs.append((cost_of(*words), json.loads(record.read_text())[0]["phases"][0]))
    seconds = statistics.median(phase["seconds"] for _, phase in runs)
    beside = max(cost.peak_bytes for cost, _ in runs) - plain["weights"]
    forward = plain["seconds"]
    return [
        *rows,
        ("weights, MiB", f"{plain['weights'] / _MIB:.0f}"),
        ("plain forwards of the nine inputs, s", f"{forward:.2f}"),
        ("P1, s", f"{seconds:.2f}"),
        ("P1 in plain forwards (3 allowed)", f"{seconds / forward:.2f}"),
        ("P1, peak beside the weights, MiB (1024 allowed)", f"{beside / _MIB:.0f}"),
        ("P1, verdict", f"{runs[0][1]['verdict']}, {len(runs[0][1]['checks'])} checks"),
    ]


def bench_miniature(program: Path, rounds: int) -> str:
    """The table of the trained miniature, by the clock from start to end."""
    nano = ROOT / "tests" / "data" / "nano"
    with tempfile.TemporaryDirectory() as scratch:
        reference = Path(scratch) / "reference.h5"
        bezel.capture_reference(nano, reference, verbose=False)
        words = [program, nano, "--reference", reference, "--phases", 1, 2, 4]
        costs = {
            threads: [cost_of(*words, threads=threads) for _ in range(rounds)] for threads in (1, 2)
        }
    lines = ["### Verification of the miniature: P1, P2 and P4 (10 s allowed)", ""]
    lines += ["| threads | seconds | of a processor |", "|---|---:|---:|"]
    for threads, runs in costs.items():
        seconds = statistics.median(run.seconds for run in runs)
        busy = statistics.median(run.processor_seconds for run in runs)
        lines.append(f"| {threads} | {seconds:.2f} | {busy:.2f} |")
    return "\n".join([*lines, ""])


def do(what: str, folder: Path, dtype: str, rounds: int) -> None:
    """One measured thing, in a process of its own."""
    if what == "reference":
        bezel.capture_reference(folder, folder / "reference.h5", verbose=False)
    elif what == "forwards":
        print(json.dumps(forwards(folder, dtype, rounds)))
    elif what == "model":
        make_checkpoint(SIZES, getattr(torch, dtype), folder)


def bench_verification(dtype: str, program: Path, rounds: int, folder: Path | None = None) -> str:
    """The table of one dtype."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = folder or Path(scratch)
        if not (folder / "config.json").exists():
            cost_of(sys.executable, __file__, "--folder", folder, "--dtype", dtype, "--do", "model")
        rows = measure(folder, program, dtype, rounds)
    title = f"### Verification, E2B width: 4 layers, 262,144 words, {dtype}"
    lines: list[Any] = [title, "", "| | |", "|---|---:|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows), ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--program", type=Path, default=ROOT / "build" / "verify" / "verify_models")
    parser.add_argument("--folder", type=Path, help="keep the model and its reference here")
    parser.add_argument("--rounds", type=int, default=3, help="runs of P1 and of the forwards")
    parser.add_argument("--do", choices=["nothing", "model", "reference", "forwards"])
    arguments = parser.parse_args()
    if arguments.do:
        do(arguments.do, arguments.folder, arguments.dtype, arguments.rounds)
        return 0
    print(bench_miniature(arguments.program, arguments.rounds))
    print(
        bench_verification(arguments.dtype, arguments.program, arguments.rounds, arguments.folder)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
