"""Float32 with images, videos and sounds: every value, the logits and the loss of transformers.

A value may be off by RELATIVE_RMS, or by three times what the reference itself is off there from
its float64 twin, where that is more. In a block of text that is one draw of a rounding which comes
in with the stream and which all its values share: the largest among them counts for each.
"""

from __future__ import annotations

import functools
import statistics
from typing import Any

import pytest
import torch

from bezel.reference.media import reference_arguments
from support import compare, exact_towers, media, media_compare
from support.hook_table import Point
from support.lab import Lab
from support.media_fixtures import MEDIA_RECIPES
from support.media_gradients import (
    ENTRANCES,
    Objective,
    capture_media_gradients,
    labels_of,
    last_logits,
    mean_loss,
)
from support.recipe import FIRST_SPECIAL_ID
from support.tower_table import audio_points, tower_points, vision_points

NAMES = tuple(MEDIA_RECIPES)
PATHS = ("automatic", "open")
CASES = [(name, case) for name in NAMES for case in media.cases(name)]
OWN_ERRORS = 3.0
AMPLIFIED = 3.0  # backward through a peaked attention makes a run's rounding larger now and then
ROUNDING = 1e-9  # in float64
LOSS_GATE = 1e-6
BFLOAT16_GATE = 2.0  # bezel's error over the reference's own
N_NEW = 50


class Errors:
    """The reference's own float32 errors in a case, as gates by name."""

    def __init__(self, lab: Lab, name: str, case: str) -> None:
        self.points = lab.media_points(name, case)
        self.masks = media_compare.masks_of(media.cases(name)[case])
        self.want = lab.media_values(name, case)
        exact = lab.media_values(name, case, exactly=True)
        self.own: dict[str, float] = {}  # by place_of
        for point in self.points:
            error = media_compare.error(point, self.want[point.name], exact[point.name], self.masks)
            place = place_of(point)
            self.own[place] = max(self.own.get(place, 0.0), error)

    def gate(self, point: Point) -> float:
        return max(compare.RELATIVE_RMS, OWN_ERRORS * self.own[place_of(point)])

    def disagreements(self, got: compare.Values) -> list[str]:
        return [
            line
            for point in self.points
            if point.name in got
            for line in media_compare.disagreements(
                [point], got, self.want, self.masks, self.gate(point)
            )
        ]


def place_of(point: Point) -> str:
    """The block of a value of text, "blocks.2"; otherwise its name."""
    in_text_block = point.name.startswith("blocks.")
    return ".".join(point.name.split(".")[:2]) if in_text_block else point.name


@functools.cache
def errors_of(lab: Lab, name: str, case: str) -> Errors:
    return Errors(lab, name, case)


def run(bridge: Any, name: str, case: str, **arguments: Any) -> Any:
    given = media.cases(name)[case]
    return bridge(given.tokens, **given.media, **arguments)


@pytest.mark.parametrize("name", NAMES)
def test_the_names_are_those_of_the_reference(lab: Lab, name: str) -> None:
    model: Any = lab.reference(name)
    points = lab.points(name) + vision_points(model.config)
    if getattr(model.config, "audio_config", None) is not None:
        points += audio_points(model.config)
    got = {(p.name, p.axes, p.access == "on_demand") for p in lab.bridge(name).hook_points()}
    assert got == {(point.name, point.axes, point.on_demand) for point in points}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "case"), CASES)
def test_every_value_is_that_of_the_reference(lab: Lab, name: str, case: str, path: str) -> None:
    errors, given = errors_of(lab, name, case), media.cases(name)[case]
    names = [point.name for point in errors.points]
    bridge = lab.bridge(name, path=path)
    logits, cache = bridge.run_with_cache(given.tokens, names, **given.media)
    assert set(cache) == set(names)
    assert not errors.disagreements(cache)
    assert torch.equal(logits, cache["hook_logits"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "case"), CASES)
def test_logits_and_loss_are_those_of_the_reference(
    lab: Lab, name: str, case: str, path: str
) -> None:
    bridge, given = lab.bridge(name, path=path), media.cases(name)[case]
    want = lab.media_values(name, case)["hook_logits"]
    gap = (run(bridge, name, case) - want)[given.valid].abs().max()
    assert gap <= compare.logits_gate(want[given.valid])
    model = lab.reference(name)
    labels = labels_of(given.tokens, given.valid)
    with torch.no_grad():
        loss = model(**reference_arguments(model, given.inputs), labels=labels).loss
    got = run(bridge, name, case, return_type="loss")
    torch.testing.assert_close(got, loss, rtol=LOSS_GATE, atol=0.0)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_alone_is_that_of_the_reference(lab: Lab, name: str) -> None:
    given = media.widest_case(name)
    errors, bridge = errors_of(lab, name, given.name), lab.bridge(name)
    wrong = []
    for point in errors.points:
        _, cache = bridge.run_with_cache(given.tokens, point.name, return_type=None, **given.media)
        assert list(cache) == [point.name]
        wrong += errors.disagreements(cache)
    assert not wrong


@pytest.mark.parametrize(("name", "case"), CASES)
def test_in_float64_the_open_towers_have_no_float32_inside(lab: Lab, name: str, case: str) -> None:
    given, want = media.cases(name)[case], lab.media_values(name, case, exactly=True)
    points = lab.media_points(name, case)
    wide = {k: v.double() if v.is_floating_point() else v for k, v in given.media.items()}
    bridge = lab.bridge(name, path="open", dtype=torch.float64)
    _, cache = bridge.run_with_cache(given.tokens, [point.name for point in points], **wide)
    assert {cache[point.name].dtype for point in points} == {torch.float64, torch.int64}
    masks = media_compare.masks_of(given)
    assert not media_compare.disagreements(points, cache, want, masks, gate=1e-12)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_token_types_are_derived_where_they_are_not_given(lab: Lab, name: str, case: str) -> None:
    given, bridge = media.cases(name)[case], lab.bridge(name, path="open")
    bare = {key: value for key, value in given.media.items() if key != "mm_token_type_ids"}
    assert torch.equal(bridge(given.tokens, **bare), run(bridge, name, case))


def gradient_gaps(
    lab: Lab, name: str, case: str, objective: Objective
) -> tuple[dict[str, float], float]:
    """(by path and value: the error over its gate; the largest error in float64)."""
    given, ratios = media.cases(name)[case], {}
    want = capture_media_gradients(lab.reference(name), given.inputs, objective)
    exact = capture_media_gradients(lab.media_oracle(name), given.inputs, objective)
    assert set(want) & set(ENTRANCES)
    points = {point.name: point for point in lab.media_points(name, case)}
    masks = media_compare.masks_of(given)

    def gaps_of(bridge: Any, inputs: dict[str, torch.Tensor], wanted: Any) -> dict[str, float]:
        logits, cache = bridge.run_with_cache(given.tokens, list(want), incl_bwd=True, **inputs)
        objective(logits, given.tokens, given.valid).backward()
        return {
            key: media_compare.error(points[key], cache[key + "_grad"], wanted[key], masks)
            for key in want
        }

    for path in PATHS:
        for key, gap in gaps_of(lab.bridge(name, path=path), given.media, want).items():
            own = media_compare.error(points[key], want[key], exact[key], masks)
            ratios[f"{path} {key}"] = gap / max(compare.RELATIVE_RMS, OWN_ERRORS * own)
    wide = {k: v.double() if v.is_floating_point() else v for k, v in given.media.items()}
    bridge = lab.bridge(name, path="open", dtype=torch.float64)
    return ratios, max(gaps_of(bridge, wide, exact).values())


@pytest.mark.parametrize("objective", [mean_loss, last_logits])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_the_reference(lab: Lab, name: str, objective: Objective) -> None:
    """To rounding in float64; in float32 the median over cases, for all values of a run share the
    rounding that its text amplifies."""
    by_value: dict[str, list[float]] = {}
    for case in media.cases(name):
        ratios, wide = gradient_gaps(lab, name, case, objective)
        assert wide <= ROUNDING, case
        for key, ratio in ratios.items():
            by_value.setdefault(key, []).append(ratio)
    medians = {key: statistics.median(ratios) for key, ratios in by_value.items()}
    assert {key: ratio for key, ratio in medians.items() if ratio > 1} == {}
    worst = {key: max(ratios) for key, ratios in by_value.items()}
    assert {key: ratio for key, ratio in worst.items() if ratio > AMPLIFIED} == {}


def squared_errors(points: list[Point], masks: Any, got: Any, want: Any) -> dict[str, float]:
    """Squared relative errors summed over layers: single values are chaotic in bfloat16."""
    squares: dict[str, float] = {}
    for point in points:
        at = "" if point.layer is None else f"blocks.{point.layer}."
        row = point.name.replace(at, "", 1)
        squares[row] = squares.get(row, 0.0) + (
            media_compare.error(point, got[point.name], want[point.name], masks) ** 2
        )
    return squares


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
def test_towers_in_bfloat16_are_as_near_as_the_reference(lab: Lab, name: str, path: str) -> None:
    given = media.widest_case(name)
    wide, narrow = (
        exact_towers.capture_media(lab.reference(name, dtype=dtype, form="bfloat16"), given.inputs)
        for dtype in (torch.float32, torch.bfloat16)
    )
    model: Any = lab.reference(name)
    points = tower_points(model.config, given.inputs)
    bridge = lab.bridge(name, "bfloat16", dtype=torch.bfloat16, path=path)
    names = [point.name for point in points]
    _, cache = bridge.run_with_cache(given.tokens, names, **given.media)
    assert {key: cache[key].dtype for key in names} == {key: narrow[key].dtype for key in names}
    masks = media_compare.masks_of(given)
    ours, theirs = (squared_errors(points, masks, got, wide) for got in (cache, narrow))
    wrong = {row: (ours[row] / theirs[row]) ** 0.5 for row in ours if theirs[row]}
    assert {row: ratio for row, ratio in wrong.items() if ratio > BFLOAT16_GATE} == {}
    assert not any(ours[row] for row in ours if not theirs[row])


def continued(model: Any, given: media.MediaCase) -> torch.Tensor:
    """N_NEW greedy tokens [batch pos] of the reference, which runs everything again each time."""
    inputs = dict(given.inputs)
    specials = list(range(FIRST_SPECIAL_ID, model.config.text_config.vocab_size))
    for _ in range(N_NEW):
        logits = model(**reference_arguments(model, inputs)).logits[:, -1]
        logits[:, specials] = -torch.inf  # a media id would ask for features
        new = logits.argmax(-1, keepdim=True)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], new], dim=1)
        inputs["mm_token_type_ids"] = torch.cat(
            [inputs["mm_token_type_ids"], torch.zeros_like(new)], dim=1
        )
        if "attention_mask" in inputs:
            mask = inputs["attention_mask"]
            inputs["attention_mask"] = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return inputs["input_ids"]


def without_specials(value: torch.Tensor, hook: Any) -> torch.Tensor:
    value = value.clone()
    value[..., FIRST_SPECIAL_ID:] = -torch.inf
    return value


@pytest.mark.parametrize("use_past_kv_cache", [True, False])
@pytest.mark.parametrize("case", ["left_padded", "images_and_videos", "everything"])
@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens_are_those_of_the_reference(
    lab: Lab, name: str, case: str, use_past_kv_cache: bool
) -> None:
    if case not in media.cases(name):
        pytest.skip("the recipe has no ears")
    given, bridge = media.cases(name)[case], lab.bridge(name)
    with torch.no_grad():
        want = continued(lab.reference(name), given)
    with bridge.hooks([("hook_logits", without_specials)]):
        got = bridge.generate(
            given.tokens, N_NEW, stop_at_eos=False, verbose=False,
            use_past_kv_cache=use_past_kv_cache, **given.media,
        )  # fmt: skip
    assert torch.equal(got, want)
