"""P1 of verify_models in bfloat16: as near to the float32 reference as its own bfloat16 is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import bezel
from bezel.reference import Sample, sampling
from support import checkpoint_forms, fixtures
from support.lab import Lab
from support.verifying import Phases, Verifier, edit_json, shared

OWN = "times the reference's own error"


@pytest.fixture(scope="module")
def verifier(lab: Lab) -> Verifier:
    return shared(lab)


def run(verifier: Verifier, folder: Path) -> Phases:
    return verifier.run(folder, 1, options=("--dtype", "bfloat16"))


@pytest.mark.parametrize(
    ("name", "form"),
    [("nano", "saved"), *((name, "saved") for name in fixtures.RECIPES), ("moe", "bfloat16")],
)
def test_the_same_model_passes(verifier: Verifier, name: str, form: str) -> None:
    phases = run(verifier, verifier.model(name, form))
    assert phases.failed("P1") == {}
    assert phases.verdict("P1") == "passed"
    measured = [c["measured"] for c in phases.checks("P1", "passed").values() if c["unit"] == OWN]
    assert len(measured) > 100
    assert 0.9 < max(measured) < 2


def test_every_name_is_judged(verifier: Verifier, lab: Lab) -> None:
    checks = run(verifier, verifier.model("moe")).checks("P1", "passed")
    for point in lab.points("moe"):
        check = checks[f"all cases: {point.name}"]
        assert check.get("layer") == point.layer
        is_choice = point.name.endswith("expert_indices")
        assert (check["unit"] == OWN) != is_choice
    assert checks["all cases: logits, KL from the reference's"]["unit"] == "nats"
    for case in ("prose", "padded_left"):
        assert f"{case}: loss" in checks


def scaled(name: str, factor: float) -> Callable[[Path], None]:
    def scale(folder: Path) -> None:
        tensors = checkpoint_forms.load_tensors(folder)
        tensors[name] = tensors[name] * factor
        checkpoint_forms.save_tensors(folder, tensors)

    return scale


def swapped(name: str) -> Callable[[Path], None]:
    """The first two rows of a tensor change places."""

    def swap(folder: Path) -> None:
        tensors = checkpoint_forms.load_tensors(folder)
        order = [1, 0, *range(2, len(tensors[name]))]
        tensors[name] = tensors[name][order].contiguous()
        checkpoint_forms.save_tensors(folder, tensors)

    return swap


LAYER = "model.layers.2."
MUTANTS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "weight": ("nano", scaled(LAYER + "mlp.down_proj.weight", 1.1), "blocks.2.mlp.hook_out"),
    "layer_scalar": ("nano", scaled(LAYER + "layer_scalar", 1.1), "blocks.2.hook_resid_post"),
    "softcap": (
        "nano",
        edit_json("config.json", lambda c: c.update(final_logit_softcapping=25.0)),
        "hook_logits",
    ),
    "expert": ("moe", swapped(LAYER + "experts.down_proj"), "blocks.2.moe.hook_expert_out"),
    "router": ("moe", swapped(LAYER + "router.proj.weight"), "blocks.2.moe.hook_router_logits"),
}


@pytest.mark.parametrize("defect", MUTANTS)
def test_another_model_fails_and_is_blamed_on_its_name(verifier: Verifier, defect: str) -> None:
    name, change, first = MUTANTS[defect]
    phases = run(verifier, verifier.changed(verifier.model(name), change))
    origin = phases.phases["P1"]["origin"]
    assert origin["name"] == f"all cases: {first}"
    assert origin["value"] > 2
    assert phases.failed("P1")[origin["name"]]["why"].startswith("most in ")


@pytest.mark.parametrize("bound", ["KL from the reference's", "the likeliest token"])
def test_other_logits_are_too_far_from_the_reference(verifier: Verifier, bound: str) -> None:
    def give_each_word_its_neighbours_place(folder: Path) -> None:
        tensors = checkpoint_forms.load_tensors(folder)
        name = "model.embed_tokens.weight"
        tensors[name] = tensors[name].roll(1, 0)
        checkpoint_forms.save_tensors(folder, tensors)

    other = verifier.changed(verifier.model("nano"), give_each_word_its_neighbours_place)
    failed = run(verifier, other).failed("P1")
    for logits in ("logits", "logits of a run that records nothing"):
        assert f"all cases: {logits}, {bound}" in failed


def resampled(verifier: Verifier, sample: Sample) -> Path:
    """The model with experts, and a reference that keeps parts."""
    folder = verifier.changed(verifier.model("moe"), lambda f: (f / "reference.h5").unlink())
    bezel.capture_reference(folder, folder / "reference.h5", sample=sample, verbose=False)
    return folder


@pytest.mark.parametrize("sample", [Sample(), Sample(2, 2), Sample(1, 3)], ids=str)
def test_a_reference_that_keeps_parts_is_enough(verifier: Verifier, sample: Sample) -> None:
    phases = run(verifier, resampled(verifier, sample))
    assert phases.verdict("P1") == "passed"
    whole = run(verifier, verifier.model("moe"))
    assert list(phases.checks("P1", "passed")) == list(whole.checks("P1", "passed"))


def test_parts_of_experts_choices_are_refused(
    verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bundles of earlier versions: in float32 they are good enough."""
    monkeypatch.setattr(sampling, "_NEVER_CUT", ())
    folder = resampled(verifier, Sample())
    refused = verifier.call(folder, "--phases", "1", "--dtype", "bfloat16")
    assert refused.returncode == 2
    assert "keeps a part of blocks.0.moe.hook_expert_indices" in refused.stderr
    assert verifier.run(folder, 1).verdict("P1") == "passed"
