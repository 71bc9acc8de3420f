"""Fixtures of the Python tests; `support` (tests/support) is importable in all of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import saes
from support.lab import Lab
from support.references import Bundles


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def bundles(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    return Bundles(lab, tmp_path_factory.mktemp("references"))


@pytest.fixture
def bridge(lab: Lab) -> Iterator[Any]:
    """Of "e2b", on the path where more records change no bit. Nothing stands on it before a test,
    and what the test leaves ends with it."""
    shared = lab.bridge("e2b", path="open")
    assert shared.list_hooks() == {}
    assert shared.acts_to_saes == {}
    yield shared
    shared.reset_hooks(including_permanent=True)
    shared.reset_saes()


@pytest.fixture(scope="module")
def sae() -> Any:
    """At the end of block 2 of "e2b"."""
    return saes.random_sae("jumprelu", saes.D, saes.AT)
