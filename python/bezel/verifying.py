"""Is it the same model? The phases of `verify_models`, and their report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from bezel import _C
from bezel.errors import ArgumentError
from bezel.loading import find_device, find_folder


class Report:
    """What a verification found.

    Args:
        record: The JSON of one model, as `verify_models --json` writes it.

    Attributes:
        record: The same as a dict: model, dtype, device, phases with their checks ….

    Example:
        >>> report = bezel.verify("tests/data/nano", phases=(2,), verbose=False)
        >>> report.verdicts, report.origins
        ({'P2': 'passed'}, {})
    """

    def __init__(self, record: str) -> None:
        self._text = record
        self.record: dict[str, Any] = json.loads(record)

    @property
    def passed(self) -> bool:
        """True when every phase passed; one that is incomplete did not."""
        return bool(self.record["passed"])

    @property
    def verdicts(self) -> dict[str, str]:
        """By phase "passed", "failed" or "incomplete": {"P1": "passed"}."""
        return {phase["id"]: phase["verdict"] for phase in self.record["phases"]}

    @property
    def origins(self) -> dict[str, dict[str, Any]]:
        """The first failure of each phase that failed: name, layer, position, value."""
        phases = self.record["phases"]
        return {phase["id"]: phase["origin"] for phase in phases if phase["origin"]}

    def to_html(self) -> str:
        """The report as one page that needs nothing but itself.

        Example:
            >>> report = bezel.verify("tests/data/nano", phases=(2,), verbose=False)
            >>> report.to_html().splitlines()[0]
            '<!doctype html>'
        """
        return _C.verify_html(self._text)

    def __repr__(self) -> str:
        lines = [f"{self.record['model']} ({self.record['dtype']} on {self.record['device']})"]
        for phase in self.record["phases"]:
            checks = phase["checks"]
            n_failed = sum(check["verdict"] == "failed" for check in checks)
            line = f"  {phase['id']} {phase['title']}: {phase['verdict']}, {len(checks)} checks"
            lines.append(line + (f", {n_failed} failed" if n_failed else ""))
            lines += [f"     skipped: {c['why']}" for c in checks if c["verdict"] == "skipped"]
            if origin := phase["origin"]:
                lines.append(f"     first: {origin['name']}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return self.to_html()


def verify(  # noqa: PLR0913  the options of verify_models
    model: str | Path,
    phases: Iterable[int] = (),
    reference: str | Path | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    strict: float = 1.0,
    verbose: bool = True,
) -> Report:
    """Holds a model against its reference, as the program `verify_models` does.

    Args:
        model: A folder with a checkpoint, or a hub id that is in the Hugging Face cache.
        phases: Which, by number: 1 forward parity, 2 hooks, 3 weights, 4 generation, 5 and 6
            two paths, 7 images and videos, 8 sound; none: all that fit the model.
        reference: A bundle of `bezel.capture_reference`; None: reference.h5 in the model's folder.
        dtype: float32, bfloat16 or float64.
        device: Where it runs.
        strict: Scales the tolerances down; 1 as they are.
        verbose: Show what is being checked.

    Returns:
        A Report. A check that could not be made leaves its phase "incomplete", never "passed".

    Raises:
        CheckpointError: A folder or a bundle that cannot be used.
        ArgumentError: A phase or device that does not exist, or a build without verification.

    Example:
        >>> report = bezel.verify("tests/data/nano", phases=(2,), verbose=False)
        >>> report.passed
        True
    """
    if not _C.has_verify:
        raise ArgumentError(
            "this build left verification out; install HDF5, xtensor, CLI11, xxHash and OpenSSL "
            "(Debian: libhdf5-dev libxtensor-dev libcli11-dev libxxhash-dev libssl-dev) and build "
            "again"
        )
    if not 0 < strict <= 1:
        raise ArgumentError(f"strict is {strict}; wanted a factor from 0 to 1")
    folder = find_folder(str(model), None, False)
    given = None if reference is None else Path(reference)
    with tqdm(disable=not verbose, unit="check", desc=folder.name) as bar:

        def note(what: str) -> None:
            bar.set_postfix_str(what, refresh=False)
            bar.update()

        record = _C.verify(folder, list(phases), given, dtype, find_device(device), strict, note)
    return Report(record)
