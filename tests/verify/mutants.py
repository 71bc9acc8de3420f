"""Does verify_models catch what it must? `make verify-mutants`: each defect built, run and blamed.

The sources are copied into a scratch folder, built once, and then with one defect at a time. The
table goes to verify/records/mutants.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from mutant_table import LOAD, MUTANTS, NANO_WITH_ENDS, Mutant

import bezel
from support import fixtures

ROOT = Path(__file__).resolve().parents[2]
_BUILT = ("hooks", "bridge", "adapters", "verify", "cmake", "CMakeLists.txt")
_ENDS = [1, 9, 50]  # of NANO_WITH_ENDS
_HEAD = """# Deliberate defects, and what verify_models says of them

Written by `make verify-mutants`: each row is a change of the sources, built and run on a small
model. It is caught where its phase fails and the first failure is the name, in the block, that the
defect has to be blamed on (`tests/verify/mutant_table.py` says which).

| defect | in | phase | first failure | block | verdict |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Finding:
    """What a phase found: its verdict and its first failure."""

    verdict: str
    name: str = ""
    layer: int | None = None


class Scratch:
    """A copy of the sources, its build, and the models with their references."""

    def __init__(self, folder: Path) -> None:
        self.sources, self.build, self.models = (folder / n for n in ("source", "build", "models"))
        self.models.mkdir(parents=True, exist_ok=True)
        for name in _BUILT:
            here, there = ROOT / name, self.sources / name
            if here.is_file():
                self._update(here, there)
                continue
            for file in sorted(path for path in here.rglob("*") if path.is_file()):
                self._update(file, there / file.relative_to(here))
        options = [
            f"-DPython_EXECUTABLE={sys.executable}",
            "-DBEZEL_TESTS=OFF",
            "-DBEZEL_BENCH=OFF",
        ]
        self._run("cmake", "-G", "Ninja", "-S", self.sources, "-B", self.build, *options)

    @staticmethod
    def _update(here: Path, there: Path) -> None:
        """Copies what is another, so that the build makes no more than it must."""
        if there.exists() and there.read_bytes() == here.read_bytes():
            return
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(here, there)
        there.chmod(here.stat().st_mode)

    @staticmethod
    def _run(*words: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}")
        return done

    def make(self) -> None:
        self._run("cmake", "--build", self.build, "--target", "verify_models")

    @functools.cache  # noqa: B019  one scratch folder in a process
    def model(self, name: str) -> Path:
        """A checkpoint with its reference beside it, made anew."""
        folder = self.models / name
        shutil.rmtree(folder, ignore_errors=True)
        is_nano = name in ("nano", NANO_WITH_ENDS)
        made = ROOT / "tests" / "data" / "nano" if is_nano else self._made(name)
        shutil.copytree(made, folder)
        if name == NANO_WITH_ENDS:
            file = folder / "generation_config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": _ENDS}))
        bezel.capture_reference(folder, folder / "reference.h5", verbose=False)
        return folder

    def _made(self, name: str) -> Path:
        return fixtures.make(name, self.models / "made")

    def run(self, mutant: Mutant) -> Finding:
        """What the program says with the sources as they are."""
        record = self.build / "record.json"
        record.unlink(missing_ok=True)
        words = [self.build / "verify" / "verify_models", self.model(mutant.model)]
        words += ["--phases", "1" if mutant.phase == LOAD else mutant.phase[1:], "--json", record]
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
        reports = json.loads(record.read_text()) if record.exists() else []
        if not reports:
            return Finding("refused", done.stderr.strip())
        (phase,) = reports[0]["phases"]
        origin = phase["origin"] or {"name": "", "layer": None}
        return Finding(phase["verdict"], origin["name"], origin["layer"])

    def with_defect(self, mutant: Mutant) -> Finding:
        sound: dict[Path, str] = {}
        try:
            for place, old, new in mutant.changes:
                file = self.sources / place
                text = file.read_text()
                sound.setdefault(file, text)
                if text.count(old) != 1:
                    raise SystemExit(f"{mutant.name}: {place} has its text {text.count(old)} times")
                file.write_text(text.replace(old, new))
            self.make()
            return self.run(mutant)
        finally:
            for file, text in sound.items():
                file.write_text(text)


def judged(mutant: Mutant, found: Finding) -> str:
    """'caught', or what is wrong with the catch."""
    if found.verdict != ("refused" if mutant.phase == LOAD else "failed"):
        return f"not caught: {found.verdict}"
    if mutant.blames not in found.name:
        return "caught, another name is blamed"
    if mutant.layer is not None and found.layer != mutant.layer:
        return "caught, another block is blamed"
    return "caught"


def row_of(mutant: Mutant, found: Finding) -> str:
    """A line of the table."""
    name = mutant.blames if mutant.phase == LOAD and mutant.blames in found.name else found.name
    cells = [mutant.name, f"`{mutant.file}`", mutant.phase, f"`{name}`"]
    cells += ["" if found.layer is None else str(found.layer), judged(mutant, found)]
    return f"| {' | '.join(cells)} |\n"


def earlier_rows(path: Path) -> dict[str, str]:
    """Rows of a table that is there, by the name of the defect."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return {line.split(" | ")[0][2:]: line for line in lines if line.count(" | ") > 4}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scratch", type=Path, default=ROOT / "build" / "mutants")
    parser.add_argument("--only", default="", help="defects whose name holds this")
    parser.add_argument("--phases", nargs="*", default=[], help="defects of these: P1 P7 …")
    parser.add_argument("--write", type=Path, help="the table; rows that are not run are kept")
    arguments = parser.parse_args()
    chosen = [
        mutant
        for mutant in MUTANTS
        if arguments.only in mutant.name and mutant.phase in (arguments.phases or [mutant.phase])
    ]
    scratch = Scratch(arguments.scratch)
    scratch.make()
    rows = earlier_rows(arguments.write) if arguments.write else {}
    n_caught, table, summary = 0, list[str](), ""
    print(_HEAD, end="", flush=True)
    for mutant in chosen:
        start = time.perf_counter()
        rows[mutant.name] = row_of(mutant, scratch.with_defect(mutant))
        print(rows[mutant.name][:-1], f"{time.perf_counter() - start:.0f} s", flush=True)
        table = [rows[mutant.name] for mutant in MUTANTS if mutant.name in rows]
        n_caught = sum(row.endswith("| caught |\n") for row in table)
        summary = f"\n{n_caught} of {len(table)} caught and blamed on the right name.\n"
        if arguments.write:
            arguments.write.write_text(_HEAD + "".join(table) + summary)
    print(summary, end="")
    return 0 if n_caught == len(table) else 1


if __name__ == "__main__":
    sys.exit(main())
