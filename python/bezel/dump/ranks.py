"""Which process of a dump this is: torchrun and SLURM say it in the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from bezel.errors import ArgumentError


class Rank(NamedTuple):
    """One process of a run.

    Attributes:
        rank: Its number, from 0.
        n_ranks: How many there are.
        local: Its number on its machine.
        run: A name that all processes of the run share, and no other run has.
    """

    rank: int = 0
    n_ranks: int = 1
    local: int = 0
    run: str = ""


# Number, how many, number on the machine; and what names the run.
_LAUNCHERS = (
    (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT"),
    ),
    (
        ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
        ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"),
    ),
)


def find_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """As the first launcher says whose variables are set; otherwise the one process of a run.

    Raises:
        ArgumentError: For variables that contradict each other or name no run.
    """
    for numbers, names in _LAUNCHERS:
        if numbers[0] not in environment:
            continue
        try:
            rank, n_ranks = int(environment[numbers[0]]), int(environment[numbers[1]])
            local = int(environment.get(numbers[2], "0"))
        except (KeyError, ValueError):
            rank, n_ranks, local = 0, 0, 0
        if not 0 <= rank < n_ranks:
            told = ", ".join(f"{key}={environment.get(key)!r}" for key in numbers)
            raise ArgumentError(
                f"the environment has {told}; wanted 0 <= {numbers[0]} < {numbers[1]}"
            )
        run = ".".join(environment[name] for name in names if name in environment)
        if n_ranks > 1 and not run:
            raise ArgumentError(
                f"{numbers[1]} is {n_ranks}, and none of {', '.join(names)} names the run; set "
                "one, to the same text for all ranks"
            )
        return Rank(rank, n_ranks, local, run)
    return Rank()
