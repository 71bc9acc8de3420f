"""Tests whose body is a function of a device: parametrised over the CPU and CUDA."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch

CPU, CUDA = "cpu", "cuda"
DEVICES = (CPU, CUDA)


def cases(*choices: Iterable[Any], on_cpu: Iterable[Any] | None = None) -> list[Any]:
    """Every combination of a device and one of each of the choices, those with CUDA marked `gpu`.

    Args:
        choices: the values of the parameters that follow the device's.
        on_cpu: what the first of them is limited to on the CPU, where time is short.
    """
    made = []
    for device in DEVICES:
        here = list(choices)
        if on_cpu is not None and device == CPU:
            here[0] = on_cpu
        for chosen in itertools.product(*here):
            marks = [pytest.mark.gpu] if CUDA in (device, *chosen) else []
            made.append(pytest.param(device, *chosen, marks=marks))
    return made


def to_cpu(values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same values where the reference's are."""
    return {name: value.cpu() for name, value in values.items()}


def on(device: str, value: torch.Tensor) -> bool:
    """Whether a tensor is on a device of this kind."""
    return value.device.type == torch.device(device).type
