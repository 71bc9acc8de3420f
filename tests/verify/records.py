"""What verify_models says of the small models, kept in verify/records: `make verify`.

A table of it stands in the README.

A record of the program has a hundred bytes and more for each of some thousand checks. Kept here is
every check with what it measured, to two digits (machines differ in the third), and no times. Of
values beside the reference's, many may be further off than the least tolerance, each by another
amount: "1.6e-05 of 5.7e-05".

    {"model", "dtype", "device", "versions", "passed",
     "phases": [{"id", "title", "verdict",
                 "checks": {"unit, allowed tolerance": {
                     "columns": what stands before ": " in names of checks, say inputs,
                     "rows": {the rest of the name: measured in each column, or null;
                              or a whole name: measured}}}}]}
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

from report import write_section

import bezel
from support import fixtures
from support.media_fixtures import MEDIA_RECIPES

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "verify" / "records"
NAMES = ("nano", *fixtures.RECIPES, *MEDIA_RECIPES)
Record = dict[str, Any]
_OF_VALUES = "relative RMS"  # the unit of values beside the reference's
_OF = " of "  # between a measured value and a tolerance of its own
_HEAD = """# What verify_models says of the small models

Written by `make verify`: the trained miniature and the fixtures that transformers makes, each held
against a reference captured of it in the same run. The worst check is the one that comes nearest to
its tolerance. Each model's checks stand in its file, with what they measured;
[mutants.md](mutants.md) shows what makes them fail.

"""


class Worst(NamedTuple):
    """The check that comes nearest to its tolerance."""

    share: float
    name: str


def in_short(record: Record) -> Record:
    """The record as it is kept."""
    kept = {key: record[key] for key in ("model", "dtype", "device", "versions", "passed")}
    return kept | {"phases": [_phase(phase) for phase in record["phases"]]}


def _phase(phase: Record) -> Record:
    groups: dict[str, list[Record]] = {}
    parity = [check["tolerance"] for check in phase["checks"] if check["unit"] == _OF_VALUES]
    for check in phase["checks"]:
        least = min(parity) if check["unit"] == _OF_VALUES else check["tolerance"]
        own = check | {"allowed_alone": check["tolerance"] > least}
        groups.setdefault(f"{check['unit']}, allowed {least:.2g}", []).append(own)
    kept = {key: phase[key] for key in ("id", "title", "verdict")}
    return kept | {"checks": {group: _columns(checks) for group, checks in groups.items()}}


def _columns(checks: list[Record]) -> Record:
    """A row for each name that stands behind several prefixes."""
    split = [(*check["name"].partition(": ")[::2], check) for check in checks]
    n_of = Counter(name for _, name, _ in split if name)
    columns = list(dict.fromkeys(prefix for prefix, name, _ in split if n_of[name] > 1))
    rows: Record = {}
    for prefix, name, check in split:
        if n_of[name] > 1:
            rows.setdefault(name, [None] * len(columns))[columns.index(prefix)] = _rounded(check)
        else:
            rows[check["name"]] = _rounded(check)
    return {"columns": columns, "rows": rows}


def _rounded(check: Record) -> Any:
    if check["verdict"] == "skipped":
        return f"skipped: {check['why']}"
    measured = check["measured"]
    if check["allowed_alone"] and not isinstance(measured, str):
        return f"{measured:.1e}{_OF}{check['tolerance']:.1e}"
    return measured if isinstance(measured, str) else float(f"{measured:.1e}") or 0


def as_text(value: Any, indent: str = "") -> str:
    """JSON in which only objects and lists of objects take more than a line."""
    if isinstance(value, dict):
        inner = [f"{json.dumps(key)}: {as_text(held, indent + ' ')}" for key, held in value.items()]
        opening, closing = "{", "}"
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        inner = [as_text(held, indent + " ") for held in value]
        opening, closing = "[", "]"
    else:
        return json.dumps(value)
    body = ",\n".join(f"{indent} {line}" for line in inner)
    return f"{opening}\n{body}\n{indent}{closing}"


def measured_in(phase: Record) -> Iterator[tuple[str, Any, float]]:
    """Name, measured value and tolerance of each check."""
    for group, checks in phase["checks"].items():
        tolerance = float(group.rpartition(" ")[2])
        for name, found in checks["rows"].items():
            is_row = isinstance(found, list)
            columns = [f"{column}: " for column in checks["columns"]] if is_row else [""]
            for column, value in zip(columns, found if is_row else [found], strict=True):
                if isinstance(value, str) and _OF in value:
                    measured, allowed = map(float, value.split(_OF))
                    yield column + name, measured, allowed
                elif value is not None:
                    yield column + name, value, tolerance


def worst_of(record: Record) -> Worst:
    """Over all phases."""
    shares = [
        Worst(value / tolerance, name)
        for phase in record["phases"]
        for name, value, tolerance in measured_in(phase)
        if tolerance > 0 and not isinstance(value, str)
    ]
    return max(shares, default=Worst(0.0, ""))


def page(records: list[Record]) -> str:
    """The table of all records."""
    titles = {phase["id"]: phase["title"] for record in records for phase in record["phases"]}
    phases = [f"{key} {titles[key]}" for key in sorted(titles)]
    rows = [["model", *phases, "worst check", "of its tolerance"]]
    rows.append(["---"] * (len(phases) + 2) + ["--:"])
    for record in records:
        found = {
            phase["id"]: f"{phase['verdict']}, {sum(1 for _ in measured_in(phase))} checks"
            for phase in record["phases"]
        }
        verdicts = [found.get(key, "") for key in sorted(titles)]
        worst = worst_of(record)
        name = f"[{record['model']}]({record['model']}.json)"
        rows.append([name, *verdicts, f"`{worst.name}`", f"{worst.share:.2f}"])
    first = records[0]
    made = f"{first['dtype']} on {first['device']}; reference: {first['versions']}\n"
    return _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows) + "\n" + made


def summary(records: list[Record]) -> str:
    """The same in a line for each model, for the README."""
    lines = ["| model | phases passed | checks | worst check | of its tolerance |"]
    lines.append("|---|---|--:|---|--:|")
    for record in records:
        passed = [phase["id"] for phase in record["phases"] if phase["verdict"] == "passed"]
        n = sum(1 for phase in record["phases"] for _ in measured_in(phase))
        worst = worst_of(record)
        cells = [record["model"], " ".join(passed), f"{n:,}", f"`{worst.name}`"]
        lines.append(f"| {' | '.join(cells)} | {worst.share:.2f} |")
    return "\n".join(lines)


def verified(program: Path, scratch: Path) -> list[Record]:
    """Captures all references and runs the program on all models."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    folders = [scratch / name for name in NAMES]
    for name, folder in zip(NAMES, folders, strict=True):
        nano = ROOT / "tests" / "data" / "nano"
        shutil.copytree(nano if name == "nano" else fixtures.make(name, scratch / "made"), folder)
        bezel.capture_reference(folder, folder / "reference.h5", verbose=False)
    target = scratch / "records.json"
    done = subprocess.run([program, *folders, "--json", target], check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{program} ended with {done.returncode}")
    return [in_short(record) for record in json.loads(target.read_text())]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=Path, default=ROOT / "build" / "verify" / "verify_models")
    parser.add_argument("--scratch", type=Path, default=ROOT / "build" / "records")
    arguments = parser.parse_args()
    records = verified(arguments.program, arguments.scratch)
    RECORDS.mkdir(exist_ok=True)
    for record in records:
        (RECORDS / f"{record['model']}.json").write_text(as_text(record) + "\n")
    (RECORDS / "README.md").write_text(page(records))
    write_section(ROOT / "README.md", "verify", summary(records))
    return 0 if all(record["passed"] for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())
