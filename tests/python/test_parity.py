"""Float32 on a CPU: every value, the logits and the loss are those of transformers."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch

import bezel
from support import compare, fixtures, reference
from support.exact import text_model_of
from support.hook_table import hook_points_of
from support.lab import Lab, load_reference

NAMES = tuple(fixtures.RECIPES)
PATHS = ("automatic", "open")
LOSS_GATE = 1e-6
NANO = Path(__file__).resolve().parents[1] / "data" / "nano"


def lengths(name: str) -> list[int]:
    """Around the window, around a vector register's 32, and several windows long."""
    window = fixtures.RECIPES[name].window
    return sorted({1, window - 1, window, window + 1, 31, 32, 33, 4 * window + 3} - {0})


CASES = [(name, length, path) for name in NAMES for length, path in product(lengths(name), PATHS)]


@pytest.mark.parametrize(("name", "length", "path"), CASES)
def test_every_value_is_that_of_the_reference(lab: Lab, name: str, length: int, path: str) -> None:
    points = lab.points(name)
    want = lab.values(name, length)
    tokens = fixtures.tokens(length)
    names = [point.name for point in points]
    logits, cache = lab.bridge(name, path=path).run_with_cache(tokens, names)
    assert not compare.disagreements(points, cache, want)
    assert torch.equal(logits, cache["hook_logits"])


@pytest.mark.parametrize(("name", "length", "path"), CASES)
def test_logits_and_loss_are_those_of_the_reference(
    lab: Lab, name: str, length: int, path: str
) -> None:
    """Nothing is asked for here, so that the automatic path takes its library kernels."""
    bridge, tokens = lab.bridge(name, path=path), fixtures.tokens(length)
    want = lab.values(name, length)["hook_logits"]
    assert (bridge(tokens) - want).abs().max() <= compare.logits_gate(want)
    if length > 1:
        with torch.no_grad():
            loss = lab.reference(name)(tokens, labels=tokens).loss
        torch.testing.assert_close(
            bridge(tokens, return_type="loss"), loss, rtol=LOSS_GATE, atol=0.0
        )


@pytest.mark.parametrize("name", NAMES)
def test_each_name_alone_is_that_of_the_reference(lab: Lab, name: str) -> None:
    """On the automatic path a request opens only what it must; the rest stays fused."""
    length = 2 * fixtures.RECIPES[name].window + 1
    bridge, tokens = lab.bridge(name), fixtures.tokens(length)
    want = lab.values(name, length)
    wrong = []
    for point in lab.points(name):
        _, cache = bridge.run_with_cache(tokens, point.name, return_type=None)
        assert list(cache) == [point.name]
        wrong += compare.disagreements([point], cache, want)
    assert not wrong


def test_every_value_of_the_shipped_miniature_is_that_of_the_reference() -> None:
    model, tokens = load_reference(NANO, torch.float32), fixtures.tokens(70)  # its window is 24
    points = hook_points_of(text_model_of(model).config)
    want = reference.capture(model, tokens)
    for path in PATHS:
        bridge = bezel.Bridge.from_pretrained(NANO, path=path)
        _, cache = bridge.run_with_cache(tokens, [point.name for point in points])
        assert not compare.disagreements(points, cache, want)
        gap = (bridge(tokens) - want["hook_logits"]).abs().max()
        assert gap <= compare.logits_gate(want["hook_logits"])


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_reference_with_library_attention(lab: Lab, name: str) -> None:
    tokens = fixtures.tokens(33)
    with torch.no_grad():
        want = lab.reference(name, attention="sdpa")(tokens).logits
    assert (lab.bridge(name)(tokens) - want).abs().max() <= compare.logits_gate(want)


@pytest.mark.parametrize("name", NAMES)
def test_in_float64_the_open_path_has_no_float32_inside(lab: Lab, name: str) -> None:
    """Against the reference with its own float32 lines rewritten in float64."""
    points, tokens = lab.points(name), fixtures.tokens(33)
    want = reference.capture(lab.oracle(name), tokens)
    bridge = lab.bridge(name, path="open", dtype=torch.float64)
    _, cache = bridge.run_with_cache(tokens, [point.name for point in points])
    assert {cache[p.name].dtype for p in points} == {torch.float64, torch.int64}
    assert not compare.disagreements(points, cache, want, gate=1e-13)
