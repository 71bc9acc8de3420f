"""The checkpoints that every other test stands on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from support import checkpoint_forms, fixtures
from support.lab import Lab
from support.media_fixtures import MEDIA_RECIPES

NAMES = (*fixtures.RECIPES, *MEDIA_RECIPES)
# What transformers gives these tensors before training; a model that skips one would pass.
NEUTRAL_VALUES = (0.0, 1.0, float("inf"), float("-inf"))


@pytest.mark.parametrize("name", NAMES)
def test_no_tensor_keeps_its_initial_value(lab: Lab, name: str) -> None:
    for key, tensor in checkpoint_forms.load_tensors(lab.folder(name)).items():
        for neutral in NEUTRAL_VALUES:
            share = (tensor == neutral).float().mean().item()
            assert share == 0.0, f"{key}: {share:.0%} of its values are {neutral}"


@pytest.mark.parametrize("name", NAMES)
def test_no_tensor_or_row_is_constant(lab: Lab, name: str) -> None:
    for key, tensor in checkpoint_forms.load_tensors(lab.folder(name)).items():
        if tensor.numel() > 1:
            rows = tensor.reshape(-1, tensor.shape[-1])
            assert (rows.std(dim=-1) > 0).all(), key


def test_scalars_differ_from_layer_to_layer(lab: Lab) -> None:
    tensors = checkpoint_forms.load_tensors(lab.folder("e2b"))
    scalars = {float(value) for key, value in tensors.items() if key.endswith("layer_scalar")}
    assert len(scalars) == len(fixtures.RECIPES["e2b"].layers)


def test_a_recipe_always_gives_the_same_bytes(lab: Lab, tmp_path: Path) -> None:
    for file in ("model.safetensors", "config.json"):
        first = (lab.folder("wrapped_e2b") / file).read_bytes()
        assert first == (fixtures.make("wrapped_e2b", tmp_path) / file).read_bytes(), file


def test_the_recipes_cover_windows_and_head_shapes() -> None:
    recipes = fixtures.RECIPES.values()
    assert {2, 3, 5, 8, 17} <= {recipe.window for recipe in recipes}
    assert all(recipe.text["head_dim"] != recipe.text["global_head_dim"] for recipe in recipes)


# transformers cannot read joint projections, and takes "wrapped" for another class.
READABLE = [
    (name, form)
    for name in NAMES
    for form in checkpoint_forms.forms_of(name)
    if form not in ("joint_projections", "wrapped")
]


@pytest.mark.parametrize(("name", "form"), READABLE)
def test_every_form_keeps_what_the_reference_reads(lab: Lab, name: str, form: str) -> None:
    tokens = fixtures.tokens(9)
    with torch.no_grad():
        want = lab.reference(name)(tokens).logits
        got = lab.reference(name, form=form)(tokens).logits
    # Products of an expert's few rows round otherwise where its weights lie at another address.
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5 if "moe" in name else 0)


@pytest.mark.parametrize("name", NAMES)
def test_joint_projections_stand_alone(lab: Lab, name: str) -> None:
    joint = checkpoint_forms.load_tensors(lab.folder(name, "joint_projections"))
    assert any("gate_up_proj.weight" in key for key in joint)
    assert not any(".mlp.gate_proj" in key and "tower" not in key for key in joint)


def test_unified_files_have_the_published_names_and_can_have_the_class_s_own(lab: Lab) -> None:
    saved = checkpoint_forms.load_tensors(lab.folder("unified"))
    assert "model.vision_embedder.patch_dense.weight" in saved
    own = checkpoint_forms.load_tensors(lab.folder("unified", "class_layout"))
    assert "model.embed_vision.patch_dense.weight" in own
    assert "model.embed_vision.multimodal_embedder.embedding_projection.weight" in own


@pytest.mark.parametrize("name", ["wrapped_e2b", "wrapped_moe", "unified"])
def test_wrapped_checkpoints_hold_towers_beside_the_text_model(lab: Lab, name: str) -> None:
    keys = checkpoint_forms.load_tensors(lab.folder(name))
    assert any(key.startswith("model.language_model.") for key in keys)
    assert any("vision" in key for key in keys)
    assert "lm_head.weight" not in keys
