"""Paired timings: every contender runs once a round, in turn, so that noise meets all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

Contender = Callable[[], object]


def median_ms(
    contenders: dict[str, Contender],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median milliseconds of each contender over alternating rounds, about `seconds` in all.

    time.process_time counts what a run takes of all cores, whatever else they do.
    """
    for run in contenders.values():  # warm up
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or len(next(iter(times.values()))) < 5:
        for name, run in contenders.items():
            start = clock()
            run()
            times[name].append((clock() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}
