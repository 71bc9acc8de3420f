"""Every example in the package's docstrings gives what it shows; what is public has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import bezel

DATA = Path(__file__).resolve().parents[1] / "data"
PACKAGES = (bezel, bezel.patching, bezel.utils, bezel.errors)
# The shipped model has no experts, so that these cannot run on it.
OF_EXPERTS = {
    f"bezel.patching.get_act_patch_{name}"
    for name in ("expert_indices", "expert_out", "expert_weights", "moe_out", "router_logits")
}
# Called by torch, not by a user.
OF_TORCH = {"bezel.SAE.extra_repr", "bezel.SAE.forward"}
WITHOUT = OF_EXPERTS | OF_TORCH


def examples() -> Iterator[doctest.DocTest]:
    """Every docstring of the package that holds an example."""
    finder = doctest.DocTestFinder()
    for name in ["bezel", *(m.name for m in pkgutil.walk_packages(bezel.__path__, "bezel."))]:
        if name != "bezel._C":
            yield from finder.find(importlib.import_module(name), name)


def public() -> dict[str, Any]:
    """What the package exports, and the methods that bezel gives it; errors explain themselves."""
    found: dict[str, Any] = {}
    for module in PACKAGES:
        found[module.__name__] = module
        for name in getattr(module, "__all__", vars(module)):
            thing = getattr(module, name)
            if inspect.isclass(thing) and not issubclass(thing, Exception):
                found |= {f"{module.__name__}.{name}.{m}": f for m, f in methods_of(thing)}
            if callable(thing) and not (inspect.isclass(thing) and issubclass(thing, Exception)):
                found[f"{module.__name__}.{name}"] = thing
    del found["bezel.errors"]
    return found


def methods_of(kind: type) -> list[tuple[str, Any]]:
    return [
        (name, thing)
        for name, thing in inspect.getmembers(kind, callable)
        if not name.startswith("_") and (getattr(thing, "__module__", "") or "").startswith("bezel")
    ]


def known() -> dict[str, Any]:
    """What an example may take as given: the package, the shipped model, a run, a store, an SAE."""
    b = bezel.Bridge.from_pretrained("tests/data/nano")
    _, cache = b.run_with_cache("As Emma knows , the capital of France is")
    sae = bezel.SAE.load_from_disk("tests/data/nano_sae")
    texts = ["Emma knows", "As Emma knows , the capital of France is"]
    name = "blocks.3.hook_resid_post"
    bezel.dump(b, texts, "acts", name, verbose=False, resume=True)
    given: dict[str, Any] = {"bezel": bezel, "torch": torch, "b": b, "cache": cache, "sae": sae}
    for module in (bezel.patching, bezel.utils):
        given |= {name: getattr(module, name) for name in module.__all__}
    return given


def failures(test: doctest.DocTest) -> str:
    told: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=told.append)
    return "".join(told)


@pytest.mark.parametrize("test", [pytest.param(t, id=t.name) for t in examples() if t.examples])
def test_an_example_gives_what_it_shows(
    test: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "data").symlink_to(DATA)
    monkeypatch.chdir(tmp_path)
    test.globs = known()
    assert failures(test) == ""


def test_what_is_public_has_an_example() -> None:
    parser = doctest.DocTestParser()
    bare = {n for n, it in public().items() if not parser.get_examples(inspect.getdoc(it) or "")}
    assert bare == WITHOUT


@pytest.mark.parametrize("example", [">>> 1 + 1", ">>> 1 + 1\n3", ">>> {}[1]"])
def test_an_example_that_shows_less_or_other_than_it_gives_is_told(example: str) -> None:
    assert failures(doctest.DocTestParser().get_doctest(example, {}, "wrong", None, None))
