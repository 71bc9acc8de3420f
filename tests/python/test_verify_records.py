"""The committed records are of every small model and every phase, and all of it passed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bezel
from support.lab import Lab
from support.references import NANO
from support.references import WITH_MEDIA as NAMES

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "verify" / "records"
LARGEST_BYTES = 170_000
# By phase: how many inputs it has, and how the names begin that only it compares.
PHASES = {"P1": (9, ""), "P7": (4, "vision_"), "P8": (1, "audio_")}


@pytest.fixture(scope="module")
def records() -> Iterator[Any]:
    """The module that writes them."""
    sys.path.insert(0, str(ROOT / "tests" / "verify"))
    import records

    yield records
    sys.path.remove(str(ROOT / "tests" / "verify"))


def read(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RECORDS / f"{name}.json").read_text())
    return record


def phases_of_the_program() -> list[str]:
    return re.findall(r'PhaseEntry\{"(P\d)"', (ROOT / "verify" / "phases.h").read_text())


def names_of(lab: Lab, name: str) -> list[str]:
    folder = NANO if name == "nano" else lab.folder(name)
    return [point.name for point in bezel.Bridge.from_pretrained(folder).hook_points()]


def test_there_is_a_record_of_every_small_model() -> None:
    assert {path.stem for path in RECORDS.glob("*.json")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_phase_of_the_model_passed(lab: Lab, name: str) -> None:
    record, names = read(name), names_of(lab, name)
    absent = [
        phase
        for phase, (_, beginning) in PHASES.items()
        if not any(known.startswith(beginning) for known in names)
    ]
    wanted = [phase for phase in phases_of_the_program() if phase not in absent]
    assert record["passed"]
    assert [phase["id"] for phase in record["phases"]] == wanted
    assert {phase["verdict"] for phase in record["phases"]} == {"passed"}


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_the_model_was_compared_in_every_case(lab: Lab, name: str) -> None:
    phases = {phase["id"]: phase for phase in read(name)["phases"]}
    for known in names_of(lab, name):
        is_of = [phase for phase in ("P7", "P8") if known.startswith(PHASES[phase][1])]
        for phase in is_of or ("P1", *(p for p in ("P7", "P8") if p in phases)):
            compared = next(
                found
                for group in phases[phase]["checks"].values()
                for key, found in group["rows"].items()
                if key in (known, f"sound: {known}")
            )
            values = compared if isinstance(compared, list) else [compared]
            assert len(values) == PHASES[phase][0], (phase, known)
            assert None not in values


@pytest.mark.parametrize("name", NAMES)
def test_every_measured_value_is_within_its_tolerance(records: Any, name: str) -> None:
    for phase in read(name)["phases"]:
        for check, value, tolerance in records.measured_in(phase):
            assert value <= tolerance, check


def test_the_page_is_that_of_the_files(records: Any) -> None:
    assert (RECORDS / "README.md").read_text() == records.page([read(name) for name in NAMES])


def test_the_readme_has_their_summary(records: Any) -> None:
    assert records.summary([read(name) for name in NAMES]) in (ROOT / "README.md").read_text()


def test_records_are_small() -> None:
    for path in RECORDS.iterdir():
        assert path.stat().st_size <= LARGEST_BYTES


def test_what_was_measured_is_kept(records: Any) -> None:
    check = {"unit": "relative RMS", "tolerance": 1e-5, "verdict": "passed", "measured": 1.23e-7}
    phase = {"id": "P1", "title": "parity", "verdict": "passed", "seconds": 3.0, "origin": None}
    checks = [check | {"name": "a: x"}, check | {"name": "b: x", "measured": 0.0}]
    checks += [check | {"name": "b: z"}, check | {"name": "a: z", "measured": "nan"}]
    checks += [check | {"name": "c: y"}, check | {"name": "w", "unit": "names"}]
    checks += [check | {"name": "b: v", "measured": 1.6e-5, "tolerance": 5.7e-5}]
    record = {"model": "m", "dtype": "float32", "device": "cpu", "versions": "", "passed": True}
    short = records.in_short(record | {"phases": [phase | {"checks": checks}]})
    assert json.loads(records.as_text(short)) == short
    (kept,) = short["phases"]
    assert kept["checks"] == {
        "relative RMS, allowed 1e-05": {
            "columns": ["a", "b"],
            "rows": {"x": [1.2e-07, 0], "z": ["nan", 1.2e-07], "c: y": 1.2e-07,
                     "b: v": "1.6e-05 of 5.7e-05"},
        },
        "names, allowed 1e-05": {"columns": [], "rows": {"w": 1.2e-07}},
    }  # fmt: skip
    found = list(records.measured_in(kept))
    assert sorted(name for name, _, _ in found) == sorted(check["name"] for check in checks)
    assert ("b: v", 1.6e-5, 5.7e-5) in found
