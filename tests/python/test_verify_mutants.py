"""The table of defects stays true to the sources; `make verify-mutants` builds and runs them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from support import fixtures
from support.media_fixtures import MEDIA_RECIPES

ROOT = Path(__file__).resolve().parents[2]


def table() -> list[Any]:
    spec = importlib.util.spec_from_file_location(
        "mutant_table", ROOT / "tests" / "verify" / "mutant_table.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutant_table"] = module
    spec.loader.exec_module(module)
    return list(module.MUTANTS)


@pytest.mark.parametrize("mutant", table(), ids=lambda mutant: mutant.name)
def test_each_defect_changes_one_place_of_the_sources(mutant: Any) -> None:
    for file, old, new in mutant.changes:
        assert (ROOT / file).read_text().count(old) == 1
        assert new != old
    known = (*fixtures.RECIPES, *MEDIA_RECIPES)
    assert mutant.model.startswith("nano") or mutant.model in known


def test_there_are_thirty_defects_of_different_names() -> None:
    names = [mutant.name for mutant in table()]
    assert len(set(names)) == len(names) >= 30


def test_the_record_has_every_defect_and_all_were_caught() -> None:
    """`make verify-mutants` writes it."""
    lines = (ROOT / "verify" / "records" / "mutants.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.count(" | ") > 4][1:]
    assert [row[0] for row in rows] == [mutant.name for mutant in table()]
    assert {row[-1] for row in rows} == {"caught"}
    for row, mutant in zip(rows, table(), strict=True):
        assert mutant.blames in row[3]
        assert mutant.layer is None or row[4] == str(mutant.layer)
