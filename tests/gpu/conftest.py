"""Tests on a CUDA device; those marked `gpu` skip where there is none.

Most bodies are functions of a device and run on the CPU as well: known to run, and to fail.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.lab import Lab


def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("gpu")
    if marker is None:
        return
    wanted = marker.kwargs.get("devices", 1)
    if torch.cuda.device_count() < wanted:
        pytest.skip("needs a CUDA device" if wanted == 1 else f"needs {wanted} CUDA devices")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("checkpoints"))
