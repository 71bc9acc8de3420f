"""Reference files of the fixtures and the miniature; made once."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bezel
from bezel.reference import capture_reference
from bezel.reference.bundle import Bundle, Outcome
from bezel.reference.media import reference_arguments
from support import fixtures
from support.lab import Lab, load_reference
from support.media_fixtures import MEDIA_RECIPES

NANO = Path(__file__).resolve().parents[1] / "data" / "nano"
NAMES = ("nano", *fixtures.RECIPES)
WITH_MEDIA = (*NAMES, *MEDIA_RECIPES)
N_NEW = 12


class Bundles:
    """Files and what they hold, by the name of a checkpoint and its form."""

    def __init__(self, lab: Lab, root: Path) -> None:
        self.lab, self.root = lab, root
        self.file = functools.cache(self._file)

    def folder(self, name: str, form: str = "saved") -> Path:
        return NANO if name == "nano" else self.lab.folder(name, form)

    def model(self, name: str) -> nn.Module:
        """transformers' own, in float32."""
        return load_reference(NANO, torch.float32) if name == "nano" else self.lab.reference(name)

    def _file(self, name: str, form: str = "saved", **options: Any) -> Path:
        words = "-".join([name, form, *(f"{key}{value}" for key, value in options.items())])
        options = {"new_tokens": N_NEW, "verbose": False} | options
        target = self.root / f"{words}.h5"
        return capture_reference(self.folder(name, form), target, **options)

    def read(self, name: str, form: str = "saved", **options: Any) -> Bundle:
        return bezel.reference.read(self.file(name, form, **options))


def arguments_of(model: nn.Module, outcome: Outcome) -> dict[str, Any]:
    """Those with which transformers computes an outcome."""
    case = outcome.case
    inputs = {"input_ids": case.tokens, "attention_mask": case.attention_mask, **case.media}
    if case.media:
        return reference_arguments(model, inputs)
    return inputs | {"position_ids": case.positions}
