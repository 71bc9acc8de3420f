"""verify_models on copies of small checkpoints, as they are and with one thing changed."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import bezel
from bezel import _C
from support.lab import Lab

NANO = Path(__file__).resolve().parents[1] / "data" / "nano"
Record = dict[str, Any]


def program() -> Path:
    """The built verify_models; skips where the build left it out."""
    built = Path(_C.__file__).resolve().parents[2] / "verify"
    found = Path(os.environ.get("BEZEL_PROGRAMS", built)) / "verify_models"
    if not found.exists():
        pytest.skip(f"{found} is not there: the build left out verify/, or BEZEL_PROGRAMS is wrong")
    return found


class Phases:
    """A record by the ids of its phases."""

    def __init__(self, code: int, record: Record) -> None:
        self.code = code
        self.phases: dict[str, Record] = {phase["id"]: phase for phase in record["phases"]}

    def verdict(self, phase: str) -> str:
        return str(self.phases[phase]["verdict"])

    def checks(self, phase: str, verdict: str) -> dict[str, Record]:
        """Those of this verdict, by name, in their order."""
        checks = self.phases[phase]["checks"]
        return {check["name"]: check for check in checks if check["verdict"] == verdict}

    def failed(self, phase: str) -> dict[str, Record]:
        return self.checks(phase, "failed")


class Verifier:
    """Checkpoints with their references; made once."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.root = lab, lab.root / "verified"
        self.n_copies = 0
        self._model = functools.cache(self._make)

    def model(self, name: str, form: str = "saved") -> Path:
        """The checkpoint, with reference.h5 beside it."""
        return self._model(name, form)

    def _make(self, name: str, form: str) -> Path:
        source = NANO if name == "nano" else self.lab.folder(name, form)
        folder = self.root / f"{name}-{form}"
        shutil.copytree(source, folder)
        return self.capture(folder)

    @staticmethod
    def capture(folder: Path) -> Path:
        bezel.capture_reference(folder, folder / "reference.h5", verbose=False)
        return folder

    def changed(self, folder: Path, change: Callable[[Path], None]) -> Path:
        """A copy in which one thing is another; its reference stays."""
        self.n_copies += 1
        copy = self.root / f"changed-{self.n_copies}"
        shutil.copytree(folder, copy)
        change(copy)
        return copy

    def run(
        self,
        folder: Path,
        *phases: int,
        options: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Phases:
        """What verify_models finds; a refusal is an error."""
        target = self.root / "record.json"
        words = ["--phases", *map(str, phases), "--json", str(target), *options]
        done = self.call(folder, *words, environment=environment)
        assert done.returncode in (0, 1), done.stderr
        (record,) = json.loads(target.read_text())
        return Phases(done.returncode, record)

    @staticmethod
    def call(
        folder: Path, *words: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program(), folder, *words],
            env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment or {}),
            capture_output=True,
            text=True,
            check=False,
        )


@functools.cache
def shared(lab: Lab) -> Verifier:
    """The one that all test files use."""
    return Verifier(lab)


def edit_json(file: str, change: Callable[[Record], object]) -> Callable[[Path], None]:
    """A change of a settings file."""

    def edit(folder: Path) -> None:
        settings = json.loads((folder / file).read_text())
        change(settings)
        (folder / file).write_text(json.dumps(settings))

    return edit


def flip_bit(name: str, byte: int = 3) -> Callable[[Path], None]:
    """A change of one bit of one byte of a tensor's first element; byte 3 has float32's sign."""

    def flip(folder: Path) -> None:
        file = folder / "model.safetensors"
        data = bytearray(file.read_bytes())
        start = 8 + int.from_bytes(data[:8], "little")
        entry = json.loads(data[8:start])[name]
        data[start + entry["data_offsets"][0] + byte] ^= 0x80
        file.write_bytes(data)

    return flip
