"""P7 and P8: images, videos and sound, the same and with one thing changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import bezel
from bezel.reference import Sample, writer
from support import checkpoint_forms
from support.lab import Lab
from support.media_fixtures import MEDIA_RECIPES
from support.verifying import Verifier, edit_json, shared

VISION, SOUND = "P7", "P8"
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def verifier(lab: Lab) -> Verifier:
    return shared(lab)


def phases_of(name: str) -> tuple[int, ...]:
    return (7, 8) if MEDIA_RECIPES[name].audio else (7,)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("name", MEDIA_RECIPES)
def test_the_same_model_passes(verifier: Verifier, name: str, dtype: str) -> None:
    found = verifier.run(verifier.model(name), *phases_of(name), options=("--dtype", dtype))
    for phase in found.phases:
        assert found.verdict(phase) == "passed", found.failed(phase)


@pytest.mark.parametrize("name", ["sound", "unified_media"])
def test_parts_of_values_are_enough(verifier: Verifier, name: str) -> None:
    """A reference that keeps some positions and dims of each value."""

    def keep_parts(folder: Path) -> None:
        (folder / "reference.h5").unlink()
        bezel.capture_reference(folder, folder / "reference.h5", sample=Sample(), verbose=False)

    folder = verifier.changed(verifier.model(name), keep_parts)
    bundle = bezel.reference.read(folder / "reference.h5")
    acts = bundle.outcomes["sound"].acts
    assert acts["audio_projector.hook_out"].is_part
    for dtype in ("float32", "bfloat16"):
        found = verifier.run(folder, 1, 7, 8, options=("--dtype", dtype))
        assert found.code == 0, {phase: found.failed(phase) for phase in found.phases}


def test_every_name_of_the_encoders_is_compared_edited_and_kept(verifier: Verifier) -> None:
    folder = verifier.model("sound")
    found = verifier.run(folder, 7, 8)
    names = [point.name for point in bezel.Bridge.from_pretrained(folder).hook_points()]
    for phase, beginning, cases in (
        (VISION, "vision_", ("image", "images", "window", "video")),
        (SOUND, "audio_", ("sound",)),
    ):
        checks = set(found.checks(phase, "passed"))
        for name in filter(lambda name: name.startswith(beginning), names):
            assert {f"{case}: {name}" for case in cases} <= checks
            for path in ("open", "automatic"):
                assert f"{path} path, an edit acts: {name}" in checks
        assert not any("audio_" in check for check in checks if phase == VISION)


def test_a_phase_is_run_where_the_model_has_its_part(verifier: Verifier) -> None:
    """Asked for by number where there is none, it says so and has not passed."""
    target = verifier.root / "all.json"
    verifier.call(verifier.model("sight_e2b"), "--json", str(target))
    assert '"P7"' in target.read_text()
    assert '"P8"' not in target.read_text()
    found = verifier.run(verifier.model("nano"), 7, 8)
    assert found.code == 1
    for phase, field in ((VISION, "vision_config"), (SOUND, "audio_config")):
        (skipped,) = found.checks(phase, "skipped").values()
        assert f"has no {field}" in skipped["why"]
        assert found.verdict(phase) == "incomplete"


def test_a_reference_without_such_inputs_is_incomplete(verifier: Verifier) -> None:
    def leave_text(folder: Path) -> None:
        bundle = bezel.reference.read(folder / "reference.h5")
        outcomes = bundle.outcomes.items()
        bundle.outcomes = {name: one for name, one in outcomes if not one.case.media}
        writer.write(folder / "reference.h5", bundle)

    found = verifier.run(verifier.changed(verifier.model("sound"), leave_text), 7, 8)
    for phase in (VISION, SOUND):
        assert found.verdict(phase) == "incomplete"
        (skipped,) = found.checks(phase, "skipped").values()
        assert "has none for this phase" in skipped["why"]


def scaled(tensor: str, factor: float) -> Change:
    """A change of a whole tensor."""

    def edit(folder: Path) -> None:
        tensors = checkpoint_forms.load_tensors(folder)
        (name,) = (name for name in tensors if name.endswith(tensor))
        tensors[name] = tensors[name] * factor
        checkpoint_forms.save_tensors(folder, tensors)

    return edit


def set_in(part: str, field: str, value: object) -> Change:
    return edit_json("config.json", lambda config: config[part].update({field: value}))


# What is changed, in which model → the phase and the name of its first failure.
CHANGES = {
    "a norm of keys": (
        "sight_e2b", scaled("vision_tower.encoder.layers.1.self_attn.k_norm.weight", 1.01),
        VISION, "image: vision_encoder.blocks.1.attn.hook_k_normed",
    ),
    "a clip bound": (
        "sight_e2b",
        scaled("vision_tower.encoder.layers.2.mlp.down_proj.output_max", 0.5),
        VISION, "image: vision_encoder.blocks.2.mlp.hook_out",
    ),
    "theta": (
        "sight_e2b",
        edit_json(
            "config.json",
            lambda config: config["vision_config"]["rope_parameters"].update(rope_theta=50.0),
        ),
        VISION, "image: vision_encoder.blocks.0.attn.hook_rot_q",
    ),
    "the standardisation": (
        "sight_moe", scaled("vision_tower.std_bias", 1.1), VISION, "image: vision_encoder.hook_out",
    ),
    "images that attend one way": (
        "sight_moe", set_in("text_config", "use_bidirectional_attention", None),
        VISION, "image: blocks.0.attn.hook_attn_scores",
    ),
    "positions of large patches": (
        "unified_media", scaled("pos_embedding", 1.1), VISION,
        "image: vision_embedder.hook_pos_embed",
    ),
    "a cap of scores": (
        "sound", set_in("audio_config", "attention_logit_cap", 1.6),
        SOUND, "sound: audio_encoder.blocks.0.attn.hook_attn_scores",
    ),
    "a residual weight": (
        "sound", set_in("audio_config", "residual_weight", 0.45),
        SOUND, "sound: audio_encoder.blocks.0.ff1.hook_out",
    ),
    "a projection of frames": (
        "unified_media", scaled("embed_audio.embedding_projection.weight", 1.001),
        SOUND, "sound: audio_projector.hook_out",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_changed_is_blamed(verifier: Verifier, what: str) -> None:
    name, change, phase, blamed = CHANGES[what]
    folder = verifier.changed(verifier.model(name), change)
    found = verifier.run(folder, int(phase[1:]))
    assert found.verdict(phase) == "failed"
    assert found.phases[phase]["origin"]["name"] == blamed


def test_tokens_that_should_not_see_each_other_are_told_without_the_reference_s_values(
    verifier: Verifier,
) -> None:
    """The rules of the configuration, not the reference's scores, say what a block shows."""

    def close(folder: Path) -> None:
        config = (folder / "config.json").read_text()
        (folder / "config.json").write_text(
            config.replace('"use_bidirectional_attention": "vision"', '"unused": "vision"')
        )

    folder = verifier.changed(verifier.model("sight_moe"), close)
    failed = verifier.run(folder, 7).failed(VISION)
    assert "image: what block 0 shows" in failed
    assert "image: what block 1 shows" not in failed  # a full layer is causal


def test_an_older_reference_says_how_to_make_it_again(
    verifier: Verifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "older"
    shutil.copytree(verifier.model("nano"), folder)
    bundle = bezel.reference.read(folder / "reference.h5")
    monkeypatch.setattr(writer, "SCHEMA", 1)
    writer.write(folder / "reference.h5", bundle)
    done = verifier.call(folder, "--phases", "1")
    assert done.returncode == 2
    assert "schema 1" in done.stderr
    assert "bezel reference" in done.stderr


def test_media_of_the_file_are_those_of_the_cases(verifier: Verifier) -> None:
    bundle = bezel.reference.read(verifier.model("sound") / "reference.h5")
    image, sound = bundle.outcomes["images"].case, bundle.outcomes["sound"].case
    assert image.media["pixel_values"].dtype == torch.float32
    assert image.media["image_position_ids"].shape[:2] == image.masks["patch"].shape
    assert sound.media["input_features_mask"].dtype == torch.bool
    assert torch.equal(sound.masks["mel_frame"], sound.media["input_features_mask"])
    assert torch.equal(sound.masks["frame"], sound.media["input_features_mask"][:, ::4])
