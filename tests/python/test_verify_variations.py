"""What may differ without being another model: verify_models passes all of it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import bezel
from bezel.reference import writer
from bezel.reference.bundle import Outcome
from support import fixtures
from support.lab import Lab
from support.verifying import Verifier, shared

SAME_FILES = (1, 2, 3, 4)
# P3 says which names and fields are not those of the reference's files; P2 reads no files.
OTHER_FILES = (1, 4)


@dataclasses.dataclass(frozen=True)
class Variation:
    """What is verified, and how.

    Attributes:
        model: "nano", or a recipe of tests/support/fixtures.py.
        form: Of its files; see tests/support/checkpoint_forms.py.
        reference: The form that the reference was captured of.
    """

    model: str = "e2b"
    form: str = "saved"
    reference: str = "saved"
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    phases: tuple[int, ...] = SAME_FILES


VARIATIONS = {
    "kernels without vectors": Variation(environment={"ATEN_CPU_CAPABILITY": "default"}),
    "products in the library's compatible order": Variation(
        environment={"MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    ),
    "float64": Variation(options=("--dtype", "float64")),
    "bfloat16 of the same weights": Variation("nano", options=("--dtype", "bfloat16")),
    "bfloat16 files in float32": Variation(form="bfloat16", reference="bfloat16"),
    "bfloat16 files in bfloat16": Variation(
        form="bfloat16", reference="bfloat16", options=("--dtype", "bfloat16")
    ),
    "rounded files against the float32 reference": Variation(
        form="bfloat16", options=("--dtype", "bfloat16"), phases=OTHER_FILES
    ),
    "shards": Variation(form="sharded"),
    "joint projections": Variation(form="joint_projections", phases=OTHER_FILES),
    "joint projections of experts' layers": Variation(
        "moe", "joint_projections", phases=OTHER_FILES
    ),
    "the published form of config.json": Variation(form="published_config", phases=OTHER_FILES),
    "a stored copy of the tied head": Variation(form="explicit_head", phases=OTHER_FILES),
    "keys and values that no layer reads": Variation(
        form="unused_keys_and_values", phases=OTHER_FILES
    ),
    "tensors of something else": Variation(form="unrelated_tensors", phases=OTHER_FILES),
    "the text model in a multimodal folder": Variation("mha", "wrapped", phases=OTHER_FILES),
    "a unified folder by the names of its class": Variation(
        "unified", "class_layout", phases=OTHER_FILES
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def verifier(lab: Lab) -> Verifier:
    return shared(lab)


def with_its_reference(verifier: Verifier, variation: Variation) -> Path:
    """The files of one form and the reference of another."""
    reference = verifier.model(variation.model, variation.reference)
    if variation.form == variation.reference:
        return reference

    def replace(folder: Path) -> None:
        for file in folder.iterdir():
            if file.name != "reference.h5":
                file.unlink()
        shutil.copytree(
            verifier.lab.folder(variation.model, variation.form), folder, dirs_exist_ok=True
        )

    return verifier.changed(reference, replace)


def must_pass(
    verifier: Verifier,
    folder: Path,
    phases: tuple[int, ...] = SAME_FILES,
    options: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> None:
    found = verifier.run(folder, *phases, options=options, environment=environment)
    for phase in found.phases:
        assert found.failed(phase) == {}
    assert {phase: found.verdict(phase) for phase in found.phases} == {
        f"P{phase}": "passed" for phase in phases
    }
    assert found.code == 0


@pytest.mark.parametrize("name", VARIATIONS)
def test_the_same_model_passes(verifier: Verifier, name: str) -> None:
    how = VARIATIONS[name]
    folder = with_its_reference(verifier, how)
    must_pass(verifier, folder, how.phases, how.options, how.environment)


@pytest.mark.parametrize("threads", [1, 2])
def test_another_number_of_threads_passes(
    verifier: Verifier, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """On a model that is large enough to be run on more than one."""
    recipe = fixtures.RECIPES["mha"]
    text = dict(recipe.text) | {"hidden_size": 320, "intermediate_size": 2560}
    monkeypatch.setitem(fixtures.RECIPES, "wide", dataclasses.replace(recipe, text=text))
    folder = verifier.model("wide")
    assert bezel.Bridge.from_pretrained(folder).n_parameters > 10_000_000
    must_pass(verifier, folder, (1, 4), environment={"OMP_NUM_THREADS": str(threads)})


def test_rows_and_inputs_in_another_order_pass(verifier: Verifier) -> None:
    folder = verifier.changed(verifier.model("e2b"), turn_round)
    must_pass(verifier, folder)


def turn_round(folder: Path) -> None:
    """Rows of every batch, and the inputs, backwards."""
    file = folder / "reference.h5"
    bundle = bezel.reference.read(file)
    before = list(bundle.outcomes.items())
    bundle.outcomes = {name: backwards(outcome) for name, outcome in reversed(before)}
    writer.write(file, bundle)
    assert list(bezel.reference.read(file).outcomes) == [name for name, _ in reversed(before)]


def backwards(outcome: Outcome) -> Outcome:
    """The same values with the rows of the batch in the other order."""
    case, logits, greedy = outcome.case, outcome.logits, outcome.greedy
    assert logits is not None
    assert greedy is not None

    def flip(value: torch.Tensor) -> torch.Tensor:
        return value.flip(0)

    return dataclasses.replace(
        outcome,
        case=dataclasses.replace(
            case, tokens=flip(case.tokens), attention_mask=flip(case.attention_mask)
        ),
        acts={
            name: dataclasses.replace(kept, value=flip(kept.value))
            for name, kept in outcome.acts.items()
        },
        logits=dataclasses.replace(
            logits,
            top_ids=flip(logits.top_ids),
            top_values=flip(logits.top_values),
            log_sum_exp=flip(logits.log_sum_exp),
            full=flip(logits.full),
        ),
        loss_per_token=flip(outcome.loss_per_token),
        greedy=greedy._replace(tokens=flip(greedy.tokens), gap=flip(greedy.gap)),
    )


def test_a_reference_that_keeps_parts_passes(verifier: Verifier) -> None:
    sample = bezel.reference.Sample(positions=4, dims=12)

    def keep_parts(folder: Path) -> None:
        bezel.capture_reference(folder, folder / "reference.h5", sample=sample, verbose=False)

    must_pass(verifier, verifier.changed(verifier.model("moe"), keep_parts), (1, 4))
