"""What media do to the reference's text values, and how a call with media is put to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bezel.reference.media import capture_media, reference_arguments, token_types
from support import compare, fixtures, media, media_compare, reference
from support.lab import Lab, load_reference
from support.media_fixtures import MEDIA_RECIPES
from support.recipe import MEDIA_IDS

NAMES = tuple(MEDIA_RECIPES)
CASES = [(name, case) for name in NAMES for case in media.cases(name)]
HEARING = ("sound", "unified_media")
# float32 in bfloat16 runs, by the end of the name; features stay as they were given.
WIDE = ("hook_scale", "hook_normalized", "hook_pooled", "hook_router_probs", "hook_expert_weights")
WIDE_IN_AUDIO = ("attn.hook_attn_scores", "attn.hook_pattern")


@pytest.mark.parametrize(("name", "case"), CASES)
def test_features_stand_where_their_tokens_are(lab: Lab, name: str, case: str) -> None:
    given, values = media.cases(name)[case], lab.media_values(name, case)
    full, plain = values["hook_full_embed"], values["hook_embed"]
    types = given.inputs["mm_token_type_ids"]
    assert torch.equal(full[types == media.TEXT], plain[types == media.TEXT])
    masks = media_compare.masks_of(given)
    if "vision_projector.hook_out" in values:
        features = values["vision_projector.hook_out"]
        n_images = int((types == media.IMAGE).sum())
        assert torch.equal(full[types == media.IMAGE], features[:n_images])
        assert torch.equal(full[types == media.VIDEO], features[n_images:])
    if "audio_projector.hook_out" in values:
        features = values["audio_projector.hook_out"]
        by_frame = "frame" if "audio_encoder.hook_out" in values else "mel_frame"
        assert torch.equal(full[types == media.AUDIO], features[masks[by_frame]])


@pytest.mark.parametrize(("name", "case"), CASES)
def test_media_tokens_are_embedded_as_padding(lab: Lab, name: str, case: str) -> None:
    model: Any = lab.reference(name)
    text, values = model.model.language_model, lab.media_values(name, case)
    is_media = media.cases(name)[case].inputs["mm_token_type_ids"] > 0
    pad = torch.tensor(text.config.pad_token_id)
    row = text.embed_tokens(pad).detach()
    assert torch.equal(values["hook_embed"][is_media], row.expand(int(is_media.sum()), -1))
    if "ple.hook_token" in values:
        row = text.embed_tokens_per_layer(pad).detach().flatten()
        assert (values["ple.hook_token"][is_media].flatten(1) == row).all()


@pytest.mark.parametrize("name", NAMES)
def test_padding_of_towers_does_not_reach_what_is_valid(lab: Lab, name: str) -> None:
    """Other noise there gives the same values, and so does no padding beyond the largest."""
    case = media.widest_case(name)
    masks, inputs = media_compare.masks_of(case), dict(case.inputs)
    for pixels, positions in (
        ("pixel_values", "image_position_ids"),
        ("pixel_values_videos", "video_position_ids"),
    ):
        is_padding = (inputs[positions] == -1).all(dim=-1)
        assert is_padding.any()
        inputs[pixels] = torch.where(is_padding[..., None], 0.25, inputs[pixels])
    if "input_features" in inputs:
        is_given = inputs["input_features_mask"][..., None]
        inputs["input_features"] = torch.where(is_given, inputs["input_features"], 7.0)
    got, points = capture_media(lab.reference(name), inputs), lab.media_points(name, case.name)
    assert not media_compare.disagreements(points, got, lab.media_values(name, case.name), masks)


@pytest.mark.parametrize("name", NAMES)
def test_a_comparison_notices_every_name(lab: Lab, name: str) -> None:
    """A part in a thousand, in valid entries; and one score that is masked or not."""
    case = media.widest_case(name)
    masks, want = media_compare.masks_of(case), lab.media_values(name, case.name)
    for point in lab.media_points(name, case.name):
        value = want[point.name]
        moved = value + 1 if not value.is_floating_point() else value * 1.001
        assert media_compare.error(point, moved, value, masks) > 5e-4, point.name
        assert media_compare.error(point, value, value, masks) == 0.0
        if point.name.endswith("hook_attn_scores"):
            seen = torch.where(value < -1e8, 0.0, value)
            gap = media_compare.error(point, seen, value, masks)
            assert gap == (0.0 if point.name.startswith("vision") else float("inf"))


@pytest.mark.parametrize("name", ["sight_e2b", "sight_moe", "unified_media"])
def test_images_and_frames_are_joined_as_one_run_has_them(lab: Lab, name: str) -> None:
    """The frames given as images, in one run of the tower, have the values of two runs."""
    case = media.cases(name)["images_and_videos"]
    want, inputs = lab.media_values(name, case.name), dict(case.inputs)
    videos = inputs.pop("pixel_values_videos").flatten(0, 1)
    positions = inputs.pop("video_position_ids").flatten(0, 1)
    n_images, n_patches = inputs["pixel_values"].shape[:2]
    n_more = videos.shape[1] - n_patches
    assert n_more > 0
    pixels = torch.nn.functional.pad(inputs["pixel_values"], (0, 0, 0, n_more))
    grid = torch.nn.functional.pad(inputs["image_position_ids"], (0, 0, 0, n_more), value=-1)
    inputs["pixel_values"] = torch.cat([pixels, videos])
    inputs["image_position_ids"] = torch.cat([grid, positions])
    image, video = (media.MEDIA_TOKEN_IDS[kind] for kind in (media.IMAGE, media.VIDEO))
    tokens = inputs["input_ids"]
    # In the order of the tower: the features of frames then stand at other tokens of the text.
    inputs["input_ids"] = torch.where(tokens == video, image, tokens)
    got = capture_media(lab.reference(name), inputs)
    points = [p for p in lab.media_points(name, case.name) if p.name.startswith("vision_")]
    assert len(points) > 9
    assert len(got["vision_projector.hook_out"]) > n_images
    masks = media_compare.masks_of(case)
    assert not media_compare.disagreements(points, got, want, masks)


@pytest.mark.parametrize("name", NAMES)
def test_without_media_the_text_values_are_those_of_the_text_recorder(lab: Lab, name: str) -> None:
    tokens, model = fixtures.tokens(19), lab.reference(name)
    got, want = capture_media(model, {"input_ids": tokens}), reference.capture(model, tokens)
    assert set(got) == set(want)
    assert all(torch.equal(got[key], value) for key, value in want.items())


@pytest.mark.parametrize(("name", "case"), CASES)
def test_token_types_follow_from_the_ids(lab: Lab, name: str, case: str) -> None:
    model: Any = lab.reference(name)
    inputs = media.cases(name)[case].inputs
    types = token_types(model.config, inputs["input_ids"])
    assert torch.equal(types, inputs["mm_token_type_ids"])


@pytest.mark.parametrize("name", HEARING)
def test_without_a_mask_all_frames_are_valid(lab: Lab, name: str) -> None:
    case = media.cases(name)["one_clip"]  # its clip fills all frames
    inputs = {key: value for key, value in case.inputs.items() if key != "input_features_mask"}
    got = capture_media(lab.reference(name), inputs)
    assert torch.equal(got["hook_logits"], lab.media_values(name, "one_clip")["hook_logits"])


def test_an_audio_tower_that_reads_its_masks_inverted_is_refused(lab: Lab) -> None:
    model: Any = load_reference(lab.folder("sound"), torch.float32)
    model.model.audio_tower.config._attn_implementation = "eager"
    case = media.cases("sound")["one_clip"]
    with pytest.raises(ValueError, match="inverted"):
        capture_media(model, case.inputs)
    capture_media(model, media.cases("sound")["video"].inputs)  # the tower is not asked


def test_images_of_the_unified_class_see_each_other_in_sliding_layers_alone(lab: Lab) -> None:
    """Its forward by itself opens full layers too: not what bezel follows."""
    case = media.cases("unified_media")["several_images"]
    values = lab.media_values("unified_media", case.name)
    window = MEDIA_RECIPES["unified_media"].window
    types = case.inputs["mm_token_type_ids"][0].tolist()
    for layer, kind in enumerate(MEDIA_RECIPES["unified_media"].layers):
        seen = (values[f"blocks.{layer}.attn.hook_pattern"][0] > 0).any(dim=0)
        for q in range(len(types)):
            for k in range(len(types)):
                block = set(types[min(q, k) : max(q, k) + 1])
                together = kind == "s" and block == {media.IMAGE}
                want = (k <= q or together) and (kind == "f" or q - k < window)
                assert bool(seen[q, k]) == want, (layer, q, k)
    model = lab.reference("unified_media")
    with torch.no_grad():
        raw = model(**case.inputs).logits
    assert (raw - values["hook_logits"]).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_runs_keep_wide_what_the_reference_computes_wide(lab: Lab, name: str) -> None:
    model = lab.reference(name, dtype=torch.bfloat16)
    case = media.widest_case(name)
    want = lab.media_values(name, case.name)
    for key, value in capture_media(model, case.inputs).items():
        wide = key.endswith(WIDE)
        wide |= key.startswith("audio_encoder.") and key.endswith(WIDE_IN_AUDIO)
        if value.is_floating_point():
            assert value.dtype == (torch.float32 if wide else torch.bfloat16), key
        assert value.shape == want[key].shape, key


@pytest.mark.parametrize("name", NAMES)
def test_masks_and_positions_of_the_caller_are_kept(lab: Lab, name: str) -> None:
    case = media.cases(name)["left_padded"]
    model = lab.reference(name)
    positions = reference.positions_from(case.inputs["attention_mask"])
    assert torch.equal(reference_arguments(model, case.inputs)["position_ids"], positions)
    own = reference_arguments(model, {**case.inputs, "position_ids": positions + 3})
    assert torch.equal(own["position_ids"], positions + 3)
    values = lab.media_values(name, case.name)
    alone = case.tokens[:1][case.valid[:1]][None]
    n_images = int(alone.eq(MEDIA_IDS["boi_token_id"]).sum())
    first = {"input_ids": alone, "pixel_values": case.inputs["pixel_values"][:n_images],
             "image_position_ids": case.inputs["image_position_ids"][:n_images]}  # fmt: skip
    got = capture_media(model, first)["hook_logits"][0]
    gap = (got - values["hook_logits"][0, case.valid[0]]).abs().max()
    assert gap <= compare.logits_gate(got)
