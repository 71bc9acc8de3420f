"""P1 of verify_models in bfloat16: as near to the float32 reference as its own bfloat16 is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import bezel
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


def test_of_a_kept_part_experts_choices_are_not_enough(verifier: Verifier) -> None:
    """What stands before them is judged, what follows is skipped: it is another expert's."""
    folder = verifier.changed(verifier.model("moe"), lambda f: (f / "reference.h5").unlink())
    sample = bezel.reference.Sample()
    bezel.capture_reference(folder, folder / "reference.h5", sample=sample, verbose=False)
    phases = run(verifier, folder)
    assert phases.verdict("P1") == "incomplete"
    assert list(phases.checks("P1", "skipped")) == ["names behind the first experts"]
    assert "all cases: blocks.0.attn.hook_z" in phases.checks("P1", "passed")
    assert "all cases: blocks.1.attn.hook_z" not in phases.checks("P1", "passed")
    assert verifier.run(folder, 1).verdict("P1") == "passed"
