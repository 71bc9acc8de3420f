"""The rules of layout, as functions from a file's path and text to complaints. Empty: all is well.

Paths are relative to the repository's root, with forward slashes. test_layout.py applies the rules
to every tracked file, and to a bad example of each.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

SOURCE_ENDINGS = {".h", ".cpp", ".cu", ".py", ".pyi", ".cmake", ".sh"}
SOURCE_NAMES = {"CMakeLists.txt", "Makefile", "run"}
MAX_LINES = 400
MAX_ROOT_CMAKE_LINES = 100
MAX_FUNCTION_LINES = 40

TOP_LEVEL = {
    *("hooks", "bridge", "adapters", "verify", "python", "tests", "notebooks", "cmake", "docs"),
    *("CMakeLists.txt", "CMakePresets.json", "Makefile", "pyproject.toml", "requirements.txt"),
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"),
    *(".ci", ".clang-format", ".clang-tidy", ".gitignore", ".gitattributes"),
}

# The ladder: what the files of a folder may include, as beginnings of paths. The longest folder
# that a path starts with counts.
LADDER = {
    "hooks/store/": ("hooks/store/", "hooks/error.h", "hooks/axes.h", "hooks/hook_points.h"),
    "hooks/": ("hooks/",),
    "bridge/ops/": ("bridge/ops/", "hooks/"),
    "bridge/": ("bridge/", "hooks/"),
    "adapters/checkpoint/": ("adapters/checkpoint/", "hooks/error.h"),
    "adapters/": ("adapters/", "bridge/", "hooks/"),
    "verify/": ("verify/", "adapters/", "bridge/", "hooks/"),
    "python/": ("bezel.h", "python/", "verify/", "adapters/", "bridge/", "hooks/"),
}
TORCH_FREE = ("hooks/store/", "adapters/checkpoint/", "hooks/error.h", "hooks/hook_points.h")
# Where a package may appear, by the beginning of what is included.
PACKAGES = {
    "pybind11/": ("python/",),
    "nlohmann/": ("adapters/", "hooks/store/", "verify/", "tests/"),
    "hdf5.h": ("hooks/store/", "tests/"),
    "xtensor/": ("hooks/store/", "verify/", "tests/"),
    "xxhash.h": ("hooks/store/",),
    "openssl/": ("hooks/store/",),
    "CLI/": ("verify/", "hooks/store/", "hooks/list_hook_points.cpp", "tests/"),
}
MACROS_ALLOWED = ("bridge/ops/context.h",)  # where a kernel is compiled for several processors

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)
_MACRO = re.compile(r"^[ \t]*#[ \t]*(define|undef|if|ifdef|ifndef|elif)\b", re.MULTILINE)
_OUTSIDE_PATH = re.compile(r"(?<![\w./~$})*-])/(?:home|root|work|Users|mnt|scratch)/\w")
_REGISTRY = re.compile(
    r"pypi\.org|pythonhosted\.org|\bdeb\.debian\.org|archive\.ubuntu\.com|download\.pytorch\.org"
)


def is_source(path: str) -> bool:
    return PurePosixPath(path).suffix in SOURCE_ENDINGS or PurePosixPath(path).name in SOURCE_NAMES


def is_cpp(path: str) -> bool:
    return PurePosixPath(path).suffix in {".h", ".cpp", ".cu"}


def includes(text: str) -> list[tuple[str, str]]:
    """Each include as its opening mark (< or ") and what stands between the marks."""
    return _INCLUDE.findall(text)


def too_long(path: str, text: str) -> Iterator[str]:
    limit = MAX_ROOT_CMAKE_LINES if path == "CMakeLists.txt" else MAX_LINES
    lines = len(text.splitlines())
    if is_source(path) and lines > limit:
        yield f"{path}: {lines} lines; {limit} is the most"


def long_functions(path: str, text: str) -> Iterator[str]:
    """Python functions; those of C++ are clang-tidy's (readability-function-size)."""
    if not path.endswith(".py"):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            if ast.get_docstring(node) and len(node.body) > 1:
                first = node.body[1]
            lines = (node.end_lineno or 0) - first.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {lines} lines; {MAX_FUNCTION_LINES}"


def off_ladder(path: str, text: str) -> Iterator[str]:
    """Includes of the project that point up, sideways, or are spelt another way."""
    if not is_cpp(path):
        return
    for mark, name in includes(text):
        if "../" in name:
            yield f"{path}: {name} leaves its folder; write bezel/<folder>/<file>.h"
        elif mark == "<" and name.startswith("bezel/"):
            yield f"{path}: <{name}>; the project's own headers stand in quotes"
    folder = max((key for key in LADDER if path.startswith(key)), key=len, default=None)
    if folder is None:
        return
    for mark, name in includes(text):
        if mark == '"' and not name.startswith("bezel/") and not path.startswith("python/"):
            yield f'{path}: "{name}"; write bezel/<folder>/<file>.h'
        elif mark == '"' and name.startswith("bezel/"):
            target = name.removeprefix("bezel/")
            if not target.startswith(LADDER[folder]):
                yield f"{path}: {name} is not below {folder}"


def forbidden_packages(path: str, text: str) -> Iterator[str]:
    if not is_cpp(path):
        return
    for _, name in includes(text):
        if name in {"torch/torch.h", "torch/extension.h"}:
            yield f"{path}: {name} is slow to compile; take ATen and c10 headers"
        elif (
            name.startswith("torch/")
            and name != "torch/library.h"
            and not path.startswith(("python/", "tests/"))
        ):
            yield f"{path}: {name} belongs to python/; take ATen and c10 headers"
        if name.startswith(("ATen/", "c10/", "torch/")) and path.startswith(TORCH_FREE):
            yield f"{path}: {name}, but this part is torch-free"
        for package, places in PACKAGES.items():
            if name.startswith(package) and not path.startswith(places):
                yield f"{path}: {name} may be used only in {', '.join(places)}"


def macros(path: str, text: str) -> Iterator[str]:
    if not is_cpp(path) or not path.startswith(tuple(LADDER)) or path in MACROS_ALLOWED:
        return
    for match in _MACRO.finditer(text):
        yield f"{path}: #{match.group(1)}; no macros and no conditional compilation"


def header_form(path: str, text: str) -> Iterator[str]:
    if not path.endswith(".h") or path.startswith("tests/"):
        return
    if not text.startswith("// "):
        yield f"{path}: the first line says what the header holds (// …)"
    if "#pragma once" not in text:
        yield f"{path}: #pragma once is missing"


def misplaced(path: str, text: str) -> Iterator[str]:
    top = path.split("/", 1)[0]
    if top not in TOP_LEVEL:
        yield f"{path}: {top} is not in the floor plan"


def names_a_machine(path: str, text: str) -> Iterator[str]:
    for pattern, what in (
        (_OUTSIDE_PATH, "a path of one machine"),
        (_REGISTRY, "a registry's host"),
    ):
        for match in pattern.finditer(text):
            yield f"{path}: {match.group(0)!r} is {what}"


RULES = (
    too_long,
    long_functions,
    off_ladder,
    forbidden_packages,
    macros,
    header_form,
    misplaced,
    names_a_machine,
)
