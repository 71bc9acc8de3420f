"""Paired timings: every contender runs once a round, in turn, so that noise meets all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

Contender = Callable[[], object]


def median_ms(contenders: dict[str, Contender], seconds: float) -> dict[str, float]:
    """Median milliseconds of each contender over alternating rounds, about `seconds` in all."""
    for run in contenders.values():  # warm up
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or len(next(iter(times.values()))) < 5:
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}
