"""P3 of verify_models names the tensor, the field and the layer that are not the reference's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from support import checkpoint_forms
from support.lab import Lab
from support.verifying import Record, Verifier, edit_json, flip_bit, shared

WEIGHT = "model.layers.3.mlp.down_proj.weight"
TOWER = "model.vision_tower.patch_embedder.input_proj.weight"
OTHER_BYTES = "weights of other bytes"
OTHER_KIND = "weights of another dtype or shape"
MISSING, UNKNOWN = "weights that are missing", "weights unknown to the reference"
UNREAD = "tensors that nothing reads"
SETTINGS = "config.json: fields that differ"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def verifier(lab: Lab) -> Verifier:
    return shared(lab)


def edit_tensors(change: Callable[[Tensors], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = checkpoint_forms.load_tensors(folder)
        change(tensors)
        checkpoint_forms.save_tensors(folder, tensors)

    return edit


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("nano", "saved"),
        ("moe", "saved"),
        ("unified", "saved"),
        ("e2b", "as_published"),
        ("wrapped_e2b", "sharded"),
        ("mha", "untied"),
        ("e4b", "bfloat16"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_references_own_files_pass(
    verifier: Verifier, name: str, form: str, dtype: str
) -> None:
    phases = verifier.run(verifier.model(name, form), 3, options=("--dtype", dtype))
    assert phases.failed("P3") == {}
    assert phases.verdict("P3") == "passed"
    assert phases.code == 0


def test_what_no_layer_reads_is_listed(verifier: Verifier) -> None:
    listed = [
        verifier.run(verifier.model(name, form), 3).checks("P3", "passed")[UNREAD]["why"]
        for name, form in (("e2b", "as_published"), ("wrapped_e2b", "sharded"))
    ]
    assert "of layers that share keys: model.layers.4.self_attn.k_norm.weight" in listed[0]
    assert "of model.vision_tower.*" in listed[1]
    assert "of model.audio_tower.*" in listed[1]


def test_without_a_reference_it_is_incomplete(verifier: Verifier) -> None:
    folder = verifier.changed(verifier.model("nano"), lambda f: (f / "reference.h5").unlink())
    phases = verifier.run(folder, 3)
    assert phases.verdict("P3") == "incomplete"
    assert len(phases.checks("P3", "skipped")) == 2
    assert phases.code == 1


@pytest.mark.parametrize("form", ["joint_projections", "explicit_head", "sharded"])
@pytest.mark.parametrize("name", ["e2b", "moe"])
def test_every_form_of_the_files_is_held_against_the_model(
    verifier: Verifier, lab: Lab, name: str, form: str
) -> None:
    phases = verifier.run(lab.folder(name, form), 3)
    assert phases.failed("P3") == {}
    assert len(phases.checks("P3", "passed")) == 10


def test_one_bit_of_one_weight_is_named(verifier: Verifier) -> None:
    for byte in (0, 3):  # the smallest change, and a sign
        folder = verifier.changed(verifier.model("nano"), flip_bit(WEIGHT, byte))
        failed = verifier.run(folder, 3).failed("P3")
        assert list(failed) == [OTHER_BYTES]
        assert failed[OTHER_BYTES]["measured"] == 1
        assert failed[OTHER_BYTES]["why"] == WEIGHT
        assert failed[OTHER_BYTES]["layer"] == 3


def test_a_tensor_of_a_tower_that_is_missing_is_named(verifier: Verifier) -> None:
    change = edit_tensors(lambda tensors: tensors.pop(TOWER))
    failed = verifier.run(verifier.changed(verifier.model("wrapped_e2b"), change), 3).failed("P3")
    assert list(failed) == [MISSING]
    assert failed[MISSING]["why"] == TOWER
    assert "layer" not in failed[MISSING]


def test_a_model_without_one_of_its_tensors_is_refused(verifier: Verifier) -> None:
    change = edit_tensors(lambda tensors: tensors.pop(WEIGHT))
    done = verifier.call(verifier.changed(verifier.model("nano"), change), "--phases", "3")
    assert done.returncode == 2
    assert WEIGHT in done.stderr


def test_a_renamed_tensor_is_missing_and_unknown(verifier: Verifier) -> None:
    def rename(tensors: Tensors) -> None:
        tensors["model.other.weight"] = tensors.pop(TOWER)

    folder = verifier.changed(verifier.model("wrapped_e2b"), edit_tensors(rename))
    failed = verifier.run(folder, 3).failed("P3")
    assert list(failed) == [MISSING, UNKNOWN, UNREAD]
    assert failed[UNKNOWN]["why"] == "model.other.weight"
    assert failed[UNREAD]["why"].startswith("model.other.weight. left aside: ")


def test_another_dtype_is_named(verifier: Verifier) -> None:
    def narrow(tensors: Tensors) -> None:
        tensors[WEIGHT] = tensors[WEIGHT].bfloat16()

    folder = verifier.changed(verifier.model("nano"), edit_tensors(narrow))
    failed = verifier.run(folder, 3).failed("P3")
    assert list(failed) == [OTHER_KIND]
    assert failed[OTHER_KIND]["why"] == f"{WEIGHT} is BF16 [96 192], was F32 [96 192]"


def set_theta(config: Record) -> None:
    config["rope_parameters"]["sliding_attention"]["rope_theta"] = 20000.0


FIELDS: list[tuple[Callable[[Record], Any], str]] = [
    (set_theta, "rope_parameters.sliding_attention.rope_theta: 20000.0, the reference's 10000.0"),
    (lambda c: c.update(sliding_window=23), "sliding_window: 23, the reference's 24"),
    (
        lambda c: c.update(final_logit_softcapping=None),
        "final_logit_softcapping: null, the reference's 30.0",
    ),
    (lambda c: c.pop("rms_norm_eps"), "rms_norm_eps: absent, the reference's 1e-06"),
    (lambda c: c.update(eos_token_id=[1, 9]), "eos_token_id: [1,9], the reference's 1"),
]


@pytest.mark.parametrize(("change", "why"), FIELDS)
def test_a_field_that_differs_is_named_with_both_values(
    verifier: Verifier, change: Callable[[Record], Any], why: str
) -> None:
    folder = verifier.changed(verifier.model("nano"), edit_json("config.json", change))
    failed = verifier.run(folder, 3).failed("P3")
    assert list(failed) == [SETTINGS]
    assert failed[SETTINGS]["measured"] == 1
    assert failed[SETTINGS]["why"] == why


def test_a_field_without_effect_is_said_and_passes(verifier: Verifier) -> None:
    change = edit_json("config.json", lambda c: c.update(transformers_version="9", use_cache=None))
    phases = verifier.run(verifier.changed(verifier.model("nano"), change), 3)
    assert phases.verdict("P3") == "passed"
    why = phases.checks("P3", "passed")[SETTINGS]["why"]
    assert why == "differ without effect: transformers_version, use_cache"


def test_another_donor_is_named_with_its_layer(verifier: Verifier) -> None:
    """Keys and values of its own lie in the files, and the last layer reads another's."""
    change = edit_json("config.json", lambda c: c.update(num_kv_shared_layers=1))
    failed = verifier.run(verifier.changed(verifier.model("mha"), change), 3).failed("P3")
    consumed = "keys and values that sharers consume = their donors'"
    assert list(failed) == [SETTINGS, "donors and sharers", consumed]
    assert failed["donors and sharers"]["layer"] == 3
    assert (
        "layer 3 reads the keys and values of 1, wanted those of 3"
        in (failed["donors and sharers"]["why"])
    )


def test_another_kind_of_layer_is_named(verifier: Verifier) -> None:
    def swap(config: Record) -> None:
        config["layer_types"][1] = "full_attention"
        config["per_layer_config"]["1"] = {"head_dim": 32}

    folder = verifier.changed(verifier.model("nano"), edit_json("config.json", swap))
    failed = verifier.run(folder, 3).failed("P3")
    assert "layer_types[1]" in failed[SETTINGS]["why"]
    assert failed[SETTINGS]["layer"] == 1


def test_a_stored_head_that_is_not_the_embedding_is_named(verifier: Verifier) -> None:
    def other_head(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].roll(1, 0).clone()

    folder = verifier.changed(verifier.model("nano"), edit_tensors(other_head))
    failed = verifier.run(folder, 3).failed("P3")
    assert list(failed) == [UNKNOWN, "tied head"]
    assert "lm_head.weight is stored, and is not" in failed["tied head"]["why"]
