"""Every tracked file keeps the rules of layout_rules.py, and every rule can be broken."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import layout_rules
import pytest

ROOT = Path(__file__).resolve().parents[2]
Rule = Callable[[str, str], Iterator[str]]


def _tracked_files() -> dict[str, str]:
    """Path and text of what git tracks and has on disk; binary files are left out."""
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    files = {}
    for path in filter(None, listing.stdout.split("\0")):
        data = (ROOT / path).read_bytes() if (ROOT / path).is_file() else b"\0"
        if b"\0" not in data:
            files[path] = data.decode()
    return files


@pytest.fixture(scope="session")
def tracked() -> dict[str, str]:
    try:
        return _tracked_files()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout: {error}")


@pytest.mark.parametrize("rule", layout_rules.RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps(rule: Rule, tracked: dict[str, str]) -> None:
    assert len(tracked) > 50
    complaints = [line for path, text in tracked.items() for line in rule(path, text)]
    assert not complaints, "\n".join(complaints)


def test_every_top_level_file_is_there() -> None:
    optional = {"verify", "notebooks", "docs", ".gitattributes"}
    absent = [n for n in layout_rules.TOP_LEVEL - optional if not (ROOT / n).exists()]
    assert not absent, f"missing at the root: {', '.join(sorted(absent))}"


def test_every_include_of_the_project_names_a_file(tracked: dict[str, str]) -> None:
    for path, text in tracked.items():
        if layout_rules.is_cpp(path):
            for mark, name in layout_rules.includes(text):
                if mark == '"' and name.startswith("bezel/") and name != "bezel/bezel.h":
                    target = ROOT / name.removeprefix("bezel/")
                    assert target.exists(), f"{path}: {name} does not exist"


_LONG_FUNCTION = "def f():\n" + "    x = 1\n" * 41
BAD_EXAMPLES = [
    (layout_rules.too_long, "hooks/plan.cpp", "\n" * 401),
    (layout_rules.too_long, "python/bezel/bridge.py", "\n" * 401),
    (layout_rules.too_long, "cmake/setup.sh", "\n" * 401),
    (layout_rules.too_long, "CMakeLists.txt", "\n" * 101),
    (layout_rules.long_functions, "python/bezel/cache.py", _LONG_FUNCTION),
    (layout_rules.off_ladder, "hooks/plan.h", '#include "bezel/bridge/spec.h"'),
    (layout_rules.off_ladder, "hooks/plan.h", '  #  include "bezel/adapters/load.h"'),
    (layout_rules.off_ladder, "bridge/ops/rope.cpp", '#include "bezel/bridge/layers.h"'),
    (layout_rules.off_ladder, "bridge/ops/rope.h", '#include "bezel/bridge/spec.h"'),
    (layout_rules.off_ladder, "bridge/block.cpp", '#include "bezel/adapters/load.h"'),
    (layout_rules.off_ladder, "adapters/load.cpp", '#include "bezel/verify/report.h"'),
    (layout_rules.off_ladder, "adapters/checkpoint/json.cpp", '#include "bezel/hooks/plan.h"'),
    (layout_rules.off_ladder, "adapters/checkpoint/json.cpp", '#include "bezel/bridge/spec.h"'),
    (layout_rules.off_ladder, "hooks/store/writer.h", '#include "bezel/hooks/cache.h"'),
    (layout_rules.off_ladder, "bridge/mlp.cpp", '#include "layers.h"'),
    (layout_rules.off_ladder, "bridge/mlp.cpp", '#include "../hooks/tap.h"'),
    (layout_rules.off_ladder, "tests/hooks/a_test.cpp", '#include "../toy.h"'),
    (layout_rules.off_ladder, "bridge/mlp.cpp", "#include <bezel/hooks/tap.h>"),
    (layout_rules.forbidden_packages, "bridge/mlp.cpp", "#include <torch/torch.h>"),
    (layout_rules.forbidden_packages, "python/bind.h", "#include <torch/extension.h>"),
    (layout_rules.forbidden_packages, "bridge/mlp.cpp", "#include <torch/csrc/autograd/x.h>"),
    (layout_rules.forbidden_packages, "adapters/checkpoint/text.h", "#include <ATen/ATen.h>"),
    (layout_rules.forbidden_packages, "hooks/store/io.h", "#include <c10/util/Half.h>"),
    (layout_rules.forbidden_packages, "bridge/mlp.cpp", "#include <pybind11/stl.h>"),
    (layout_rules.forbidden_packages, "bridge/spec.h", "#include <nlohmann/json.hpp>"),
    (layout_rules.forbidden_packages, "hooks/cache.h", "#include <hdf5.h>"),
    (layout_rules.macros, "bridge/mlp.cpp", "#ifdef USE_CUDA"),
    (layout_rules.macros, "hooks/tap.h", "#define TAP(x) x"),
    (layout_rules.header_form, "hooks/tap.h", "#pragma once\n// late"),
    (layout_rules.header_form, "hooks/tap.h", "// A tap.\n"),
    (layout_rules.misplaced, "src/main.cpp", ""),
    (layout_rules.misplaced, "notes.txt", ""),
    (layout_rules.names_a_machine, "README.md", "see " + "/home" + "/someone/models"),
    (layout_rules.names_a_machine, "cmake/x.sh", "cd " + "/work" + "/main"),
    (layout_rules.names_a_machine, "cmake/x.sh", "--index-url https://py" + "pi.org/simple"),
]


@pytest.mark.parametrize(("rule", "path", "text"), BAD_EXAMPLES)
def test_a_bad_example_is_refused(rule: Rule, path: str, text: str) -> None:
    assert list(rule(path, text))


GOOD_EXAMPLES = [
    ("bridge/mlp.cpp", '#include <ATen/ATen.h>\n#include "bezel/hooks/tap.h"\n'),
    ("bridge/ops/rope.h", '// Turns pairs.\n#pragma once\n#include "bezel/hooks/tap.h"\n'),
    (
        "adapters/checkpoint/json.cpp",
        '#include <nlohmann/json.hpp>\n#include "bezel/hooks/error.h"',
    ),
    ("hooks/plan.cpp", "\n" * 400),
    (
        "python/bezel/cache.py",
        "def f():\n" + '    """' + "\n" * 50 + '    """\n' + "    x = 1\n" * 40,
    ),
    ("README.md", "`make demo MODEL=~/models/gemma` or $HOME/work/model, docs/work/page.md"),
]


@pytest.mark.parametrize(("path", "text"), GOOD_EXAMPLES)
def test_a_good_example_passes(path: str, text: str) -> None:
    assert [line for rule in layout_rules.RULES for line in rule(path, text)] == []


def test_every_rule_has_a_bad_example() -> None:
    assert {rule for rule, _, _ in BAD_EXAMPLES} == set(layout_rules.RULES)
