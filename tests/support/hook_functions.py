"""Hook functions that many tests register."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def says(word: str, calls: list[str]) -> Callable[..., None]:
    """A hook that notes that it was called."""
    return lambda value, hook: calls.append(word)


def nothing(value: torch.Tensor, hook: Any) -> None:
    return None


def doubled(value: torch.Tensor, hook: Any) -> torch.Tensor:
    return 2 * value
