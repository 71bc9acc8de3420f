"""Does verify_models catch what it must? `make verify-mutants`: each defect built, run and blamed.

The sources are copied into a scratch folder, built once, and then with one defect at a time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from mutant_table import MUTANTS, Mutant

import bezel
from support import fixtures

ROOT = Path(__file__).resolve().parents[2]
_BUILT = ("hooks", "bridge", "adapters", "verify", "cmake", "CMakeLists.txt")


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

    def model(self, name: str) -> Path:
        """A checkpoint with its reference beside it."""
        folder = self.models / name
        if not (folder / "reference.h5").exists():
            if name == "nano":
                shutil.copytree(ROOT / "tests" / "data" / "nano", folder, dirs_exist_ok=True)
            else:
                shutil.copytree(
                    fixtures.make(name, self.models / "made"), folder, dirs_exist_ok=True
                )
            bezel.capture_reference(folder, folder / "reference.h5", verbose=False)
        return folder

    def phase(self, mutant: Mutant) -> dict[str, object]:
        """The phase's part of the record."""
        record = self.build / "record.json"
        record.unlink(missing_ok=True)
        words = [self.build / "verify" / "verify_models", self.model(mutant.model)]
        words += ["--phases", mutant.phase[1:], "--json", record]
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
        if not record.exists():
            return {"verdict": "error", "origin": {"name": done.stderr.strip(), "layer": None}}
        (report,) = json.loads(record.read_text())
        (phase,) = report["phases"]
        return phase

    def with_defect(self, mutant: Mutant) -> dict[str, object]:
        file = self.sources / mutant.file
        sound = file.read_text()
        if sound.count(mutant.old) != 1:
            raise SystemExit(
                f"{mutant.name}: {mutant.file} has its text {sound.count(mutant.old)} times"
            )
        file.write_text(sound.replace(mutant.old, mutant.new))
        try:
            self.make()
            return self.phase(mutant)
        finally:
            file.write_text(sound)


def judged(mutant: Mutant, phase: dict[str, object]) -> str:
    """'caught', or what is wrong with the catch."""
    if phase["verdict"] != "failed":
        return f"not caught: {phase['verdict']}"
    origin = phase["origin"]
    assert isinstance(origin, dict)
    if mutant.blames not in origin["name"]:
        return f"blamed {origin['name']}"
    if mutant.layer is not None and origin["layer"] != mutant.layer:
        return f"blamed block {origin['layer']}"
    return "caught"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scratch", type=Path, default=ROOT / "build" / "mutants")
    parser.add_argument("--only", help="defects whose name holds this")
    arguments = parser.parse_args()
    scratch = Scratch(arguments.scratch)
    scratch.make()
    chosen = [mutant for mutant in MUTANTS if (arguments.only or "") in mutant.name]
    print("| defect | phase | first failure | block | verdict | s |\n|---|---|---|---|---|---|")
    n_caught = 0
    for mutant in chosen:
        start = time.perf_counter()
        phase = scratch.with_defect(mutant)
        verdict = judged(mutant, phase)
        n_caught += verdict == "caught"
        origin = phase["origin"] or {"name": "", "layer": None}
        assert isinstance(origin, dict)
        block = "" if origin["layer"] is None else origin["layer"]
        seconds = time.perf_counter() - start
        print(
            f"| {mutant.name} | {mutant.phase} | `{origin['name']}` | {block} | {verdict} "
            f"| {seconds:.0f} |",
            flush=True,
        )
    print(f"\n{n_caught} of {len(chosen)} caught and blamed on the right name.")
    return 0 if n_caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
