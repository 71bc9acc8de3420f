"""P4 of verify_models: whose text it is, where it parts, and where it ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import bezel
from support import checkpoint_forms
from support.lab import Lab
from support.verifying import Record, Verifier, edit_json, flip_bit, shared

ENDS = "ids that end a row"


@pytest.fixture(scope="module")
def verifier(lab: Lab) -> Verifier:
    return shared(lab)


def with_ends(*ids: int) -> Callable[[Path], None]:
    return edit_json("generation_config.json", lambda c: c.update(eos_token_id=list(ids)))


@pytest.mark.parametrize("name", ["nano", "e2b", "moe", "unified", "wrapped_moe", "mha"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_the_same_model_says_the_same(verifier: Verifier, name: str, dtype: str) -> None:
    phases = verifier.run(verifier.model(name), 4, options=("--dtype", dtype))
    assert phases.failed("P4") == {}
    assert phases.verdict("P4") == "passed"


def test_without_a_reference_it_is_incomplete(verifier: Verifier) -> None:
    folder = verifier.changed(verifier.model("nano"), lambda f: (f / "reference.h5").unlink())
    phases = verifier.run(folder, 4)
    assert phases.verdict("P4") == "incomplete"
    assert list(phases.checks("P4", "skipped")) == [
        "greedy tokens of the reference",
        "text statistics",
    ]
    assert phases.failed("P4") == {}


def test_near_ties_pass_in_bfloat16_and_are_said(verifier: Verifier) -> None:
    phases = verifier.run(verifier.model("nano"), 4, options=("--dtype", "bfloat16"))
    said = [
        check["why"]
        for name, check in phases.checks("P4", "passed").items()
        if name.endswith("greedy tokens = of the reference") and "why" in check
    ]
    assert said
    assert all(why.startswith("a near-tie: row ") for why in said)
    exact = verifier.run(verifier.model("nano"), 4).checks("P4", "passed")
    assert not any("near-tie" in check.get("why", "") for check in exact.values())


def set_theta(config: Record) -> None:
    config["rope_parameters"]["sliding_attention"]["rope_theta"] = 100.0


def scale_layer(folder: Path) -> None:
    tensors = checkpoint_forms.load_tensors(folder)
    tensors["model.layers.2.layer_scalar"] *= 1.5
    checkpoint_forms.save_tensors(folder, tensors)


MUTANTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "theta": (edit_json("config.json", set_theta), "blocks.0.attn.hook_rot_q"),
    "window": (
        edit_json("config.json", lambda c: c.update(sliding_window=4)),
        "blocks.0.attn.hook_attn_scores",
    ),
    "epsilon": (
        edit_json("config.json", lambda c: c.update(rms_norm_eps=0.5)),
        "ple.hook_context",
    ),
    "layer_scalar": (scale_layer, "blocks.2.hook_resid_post"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_another_model_is_seen_by_every_phase(verifier: Verifier, name: str) -> None:
    change, first = MUTANTS[name]
    phases = verifier.run(verifier.changed(verifier.model("nano"), change), 1, 3, 4)
    assert phases.phases["P1"]["origin"]["name"].endswith(": " + first)
    assert phases.verdict("P3") == "failed"
    failed = phases.failed("P4")
    assert failed
    assert all(check.endswith("greedy tokens = of the reference") for check in failed)
    first_failure = next(iter(failed.values()))
    row, step = first_failure["place"]
    assert f"row {row} parts at step {step}: got " in first_failure["why"]
    assert "ahead of the next; repeated tokens: bezel " in first_failure["why"]


def test_a_bit_too_small_to_matter_is_seen_by_p3_alone(verifier: Verifier) -> None:
    change = flip_bit("model.layers.3.mlp.down_proj.weight", byte=0)
    phases = verifier.run(verifier.changed(verifier.model("nano"), change), 1, 3, 4)
    assert [phases.verdict(phase) for phase in ("P1", "P3", "P4")] == ["passed", "failed", "passed"]


def test_a_loop_is_blamed_on_whose_it_is(verifier: Verifier) -> None:
    def silence(folder: Path) -> None:
        tensors = checkpoint_forms.load_tensors(folder)
        tensors["model.norm.weight"] *= 0
        checkpoint_forms.save_tensors(folder, tensors)

    folder = verifier.changed(verifier.model("nano"), silence)
    pairs = "all cases: distinct pairs"
    ours = verifier.run(folder, 4).failed("P4")[pairs]
    assert ours["why"].endswith("only bezel loops: the model does not")
    assert ours["measured"] > ours["tolerance"]
    verifier.capture(folder)
    both = verifier.run(folder, 4).checks("P4", "passed")[pairs]
    assert both["why"].endswith("both loop: the model does")


def test_any_number_of_ends_is_honoured(verifier: Verifier) -> None:
    folder = verifier.changed(verifier.model("nano"), with_ends(1, 9, 50, 9))
    verifier.capture(folder)
    passed = verifier.run(folder, 4).checks("P4", "passed")
    assert [name for name in passed if name.startswith("a row ends at")] == [
        f"a row ends at {token}" for token in (1, 9, 50)
    ]
    assert passed[ENDS]["why"] == "bezel has 1 9 50, the configuration 1 9 50"


def test_a_truncated_list_of_ends_is_named(verifier: Verifier) -> None:
    folder = verifier.changed(verifier.model("nano"), with_ends(1, 9, 50))
    verifier.capture(folder)
    failed = verifier.run(verifier.changed(folder, with_ends(1, 50)), 3, 4).failed("P4")
    assert list(failed)[-2:] == [ENDS, "a row ends at 9"]
    assert failed[ENDS]["why"] == "bezel has 1 50, the configuration 1 9 50"
    assert failed["a row ends at 9"]["measured"] == 3


def test_a_text_that_goes_on_behind_the_references_end_is_no_near_tie(verifier: Verifier) -> None:
    text = bezel.reference.read(verifier.model("nano") / "reference.h5").outcomes["prose"]
    assert text.greedy is not None
    end = int(text.greedy.tokens[0, 3])
    step = int((text.greedy.tokens[0] == end).nonzero()[0]) + 1
    folder = verifier.changed(verifier.model("nano"), with_ends(1, end))
    verifier.capture(folder)
    assert verifier.run(folder, 4).verdict("P4") == "passed"
    for dtype in ("float32", "bfloat16"):
        mutant = verifier.changed(folder, with_ends(1))
        failed = verifier.run(mutant, 4, options=("--dtype", dtype)).failed("P4")
        check: Any = failed["prose: greedy tokens = of the reference"]
        assert check["place"] == [0, step]
        assert "one of them had ended and the other goes on" in check["why"]


def test_media_ids_that_a_text_model_chose_end_the_comparison(verifier: Verifier) -> None:
    """transformers goes on with another embedding behind them."""
    folder = verifier.model("wrapped_moe")
    media = checkpoint_forms.read_config(folder)["image_token_id"]
    outcomes = bezel.reference.read(folder / "reference.h5").outcomes.values()
    chosen = torch.cat([o.greedy.tokens.flatten() for o in outcomes if o.greedy is not None])
    assert (chosen == media).any()  # or this test shows nothing

    def not_media(config: Record) -> None:
        config["image_token_id"] = 3

    mutant = verifier.changed(folder, edit_json("config.json", not_media))
    assert verifier.run(mutant, 4).verdict("P4") == "passed"  # the bundle's ids count
