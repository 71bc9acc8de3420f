"""verify_models end to end on the miniature: a whole record, and phases that cannot go on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import bezel
from bezel.reference import writer
from support.lab import Lab
from support.verifying import NANO, Verifier, shared


@pytest.fixture(scope="module")
def verifier(lab: Lab) -> Verifier:
    return shared(lab)


def test_the_miniature_passes_with_a_full_record(tmp_path: Path, verifier: Verifier) -> None:
    reference, record = tmp_path / "ref.h5", tmp_path / "record.json"
    bezel.capture_reference(NANO, reference, verbose=False)
    phases = ["P1", "P2", "P3", "P4"]
    words = ["--phases", *(phase[1:] for phase in phases), "--reference", str(reference)]
    done = verifier.call(NANO, *words, "--json", str(record))
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads(record.read_text())
    assert found["passed"]
    assert [phase["id"] for phase in found["phases"]] == phases
    for phase in found["phases"]:
        assert phase["verdict"] == "passed"
        assert phase["origin"] is None
        assert {check["verdict"] for check in phase["checks"]} == {"passed"}
    names = {check["name"] for check in found["phases"][0]["checks"]}
    for case in bezel.reference.read(reference).outcomes:
        for point in bezel.Bridge.from_pretrained(NANO).hook_points():
            assert f"{case}: {point.name}" in names


def test_a_phase_that_cannot_go_on_fails_and_the_others_run(verifier: Verifier) -> None:
    def ask_for_an_id_that_is_not_there(folder: Path) -> None:
        bundle = bezel.reference.read(folder / "reference.h5")
        outcome = bundle.outcomes["code"]
        tokens = outcome.case.tokens.clone()
        tokens[0, 2] = 1 << 20
        case = dataclasses.replace(outcome.case, tokens=tokens)
        bundle.outcomes["code"] = dataclasses.replace(outcome, case=case)
        writer.write(folder / "reference.h5", bundle)

    folder = verifier.changed(verifier.model("nano"), ask_for_an_id_that_is_not_there)
    phases = verifier.run(folder, 1, 2, 3)
    assert [phases.verdict(phase) for phase in ("P1", "P2", "P3")] == ["failed", "passed", "passed"]
    *_, last = phases.failed("P1").values()
    assert "the vocabulary has ids 0 to" in last["why"]
    assert phases.phases["P1"]["origin"]["name"].startswith("code: ")
