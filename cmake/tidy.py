"""clang-tidy (the allow-list of .clang-tidy) on the sources that changed since a commit, or on all.

usage: cmake/tidy.py BUILD [SINCE|all]   BUILD: a configured build folder
SINCE is by default the fork from origin/main, or the last commit on it. A changed header counts as
a change of its own .cpp, or of the first source that includes it.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("hooks/", "bridge/", "adapters/", "verify/")
# What g++ is told and clang does not know; the precompiled header is g++'s own.
GCC_ONLY = {"-fpch-preprocess", "-Winvalid-pch", "-Wno-restrict", "-fopenmp"}


def git(*arguments: str) -> list[str]:
    run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return run.stdout.splitlines() if run.returncode == 0 else []


def start_of_changes() -> str | None:
    head = git("rev-parse", "HEAD")
    for base in (git("merge-base", "HEAD", "origin/main"), git("rev-parse", "-q", "HEAD~1")):
        if base and base != head:
            return base[0]
    return None


def for_clang(command: str) -> str:
    kept, words = [], iter(shlex.split(command))
    for word in words:
        if word == "-include":
            next(words)  # the precompiled header
        elif word not in GCC_ONLY:
            kept.append(word)
    return shlex.join(kept)


def write_commands(build: Path) -> tuple[Path, set[str]]:
    """A compile_commands.json that clang understands; its folder and the sources it knows."""
    entries = json.loads((build / "compile_commands.json").read_text())
    for entry in entries:
        entry["command"] = for_clang(entry["command"])
    folder = build / "tidy"
    folder.mkdir(exist_ok=True)
    (folder / "compile_commands.json").write_text(json.dumps(entries))
    return folder, {os.path.relpath(entry["file"], ROOT) for entry in entries}


def source_of(header: str, sources: list[str]) -> str | None:
    if (own := header.removesuffix(".h") + ".cpp") in sources:
        return own
    line = f'#include "bezel/{header}"'
    return next((source for source in sources if line in (ROOT / source).read_text()), None)


def chosen(since: str | None, known: set[str]) -> list[str]:
    sources = sorted(path for path in known if path.startswith(FOLDERS))
    if since == "all":
        return sources
    since = since or start_of_changes()
    changed = git("diff", "--name-only", "--diff-filter=d", since) if since else []
    picked = set(sources).intersection(changed)
    for path in changed:
        if (
            path.endswith(".h")
            and path.startswith(FOLDERS)
            and (source := source_of(path, sources))
        ):
            picked.add(source)
    return sorted(picked)


def tidy(commands: Path, source: str) -> bool:
    run = subprocess.run(
        ["clang-tidy", "-p", str(commands), "--quiet", str(ROOT / source)],
        capture_output=True,
        text=True,
        check=False,
    )
    print(f"tidy: {source}" + ("" if run.returncode == 0 else "\n" + run.stdout), flush=True)
    return run.returncode == 0


def main() -> int:
    commands, known = write_commands(Path(sys.argv[1]))
    sources = chosen(sys.argv[2] if len(sys.argv) > 2 else None, known)
    print(f"tidy: {len(sources)} files")
    jobs = int(subprocess.check_output([ROOT / "cmake" / "jobs.sh"]))
    with ThreadPoolExecutor(jobs) as pool:
        clean = list(pool.map(lambda source: tidy(commands, source), sources))
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())
