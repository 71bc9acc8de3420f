"""verify_models on several models: in their order, interrupted, and with one that is none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from support.lab import Lab
from support.verifying import Verifier, program, shared

NAMES = ("nano", "moe", "e2b")


@pytest.fixture(scope="module")
def verifier(lab: Lab) -> Verifier:
    return shared(lab)


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_records_stand_in_the_order_given(verifier: Verifier, tmp_path: Path, jobs: str) -> None:
    folders = [verifier.model(name) for name in NAMES]
    record = tmp_path / "record.json"
    words = ("--phases", "1", "3", "--jobs", jobs, "--json", str(record))
    done = verifier.call(folders[0], *map(str, folders[1:]), *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(record.read_text())
    assert [model["model"] for model in found] == [folder.name for folder in folders]
    assert all(model["passed"] for model in found)
    printed = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert printed == [f"{folder.name} (float32 on cpu)" for folder in folders]
    begun = done.stderr.splitlines()
    wanted = [f"{f.name}: {p}" for f in folders for p in ("P1 forward parity", "P3 weights")]
    assert sorted(begun) == sorted(wanted)


def test_an_interrupt_leaves_what_was_done(verifier: Verifier, tmp_path: Path) -> None:
    folders = [str(verifier.model(name)) for name in NAMES]
    record = tmp_path / "record.json"
    with subprocess.Popen(
        [program(), *folders, "--jobs", "2", "--json", record],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        begun = [next(process.stderr) for _ in range(3)]  # one is in its second phase
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 3
    assert any(": P2" in line for line in begun)
    found = json.loads(record.read_text())
    assert [model["model"] for model in found] == ["nano-saved", "moe-saved"]
    assert all(model["interrupted"] for model in found)
    whys = [check.get("why") for model in found for check in model["phases"][-1]["checks"]]
    assert "interrupted" in whys
    resumed = verifier.call(Path(folders[1]), "--phases", "3", "--resume", "--json", str(record))
    assert resumed.returncode == 0
    assert not json.loads(record.read_text())[0]["interrupted"]


def test_what_is_no_model_is_said_and_the_rest_is_kept(verifier: Verifier, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    nothing = str(tmp_path / "nothing")
    words = ("--phases", "3", "--json", str(record))
    done = verifier.call(verifier.model("nano"), nothing, *words)
    assert done.returncode == 2
    assert f"verify_models: {nothing}/config.json" in done.stderr
    assert f"is {nothing} a model folder?" in done.stderr
    assert [model["model"] for model in json.loads(record.read_text())] == ["nano-saved"]
