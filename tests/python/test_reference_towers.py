"""The values that the recorder takes from transformers' towers obey plain facts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from bezel.reference.media import capture_media, reference_arguments
from support import media, media_compare, reference
from support.lab import Lab
from support.media_fixtures import MEDIA_RECIPES

NAMES = tuple(MEDIA_RECIPES)
CASES = [(name, case) for name in NAMES for case in media.cases(name)]
SEEING = ("sight_e2b", "sight_moe", "sound")  # with a vision encoder
FLOAT64_GAP = 3e-5  # of the reference's own float32 values
Values = reference.Values


def tower(lab: Lab, name: str, which: str) -> Any:
    model: Any = lab.reference(name)
    return getattr(model.model, f"{which}_tower")


def sizes(lab: Lab, name: str, case: media.MediaCase) -> dict[str, int]:
    """The length of each axis that towers have alike."""
    model: Any = lab.reference(name)
    config, inputs = model.config, case.inputs
    types = inputs["mm_token_type_ids"]
    known = {"1": 1, "d_model": config.text_config.hidden_size}
    known["soft"] = int(((types == media.IMAGE) | (types == media.VIDEO)).sum())
    if "patch" in (masks := media_compare.masks_of(case)):
        known["image"], known["patch"] = masks["patch"].shape
        known |= {"q_patch": known["patch"], "k_patch": known["patch"]}
        known["d_patch"] = media.Shapes(MEDIA_RECIPES[name]).d_patch
        vision = config.vision_config
        known["d_vision"] = getattr(vision, "hidden_size", getattr(vision, "mm_embed_dim", 0))
    if "frame" in masks:
        known["audio"], known["mel_frame"] = masks["mel_frame"].shape
        known["mel"] = inputs["input_features"].shape[-1]
        known["half_frame"], known["frame"] = (masks[x].shape[1] for x in ("half_frame", "frame"))
    return known


@pytest.mark.parametrize(("name", "case"), CASES)
def test_names_are_complete_and_have_their_axes(lab: Lab, name: str, case: str) -> None:
    values, points = lab.media_values(name, case), lab.media_points(name, case)
    assert {point.name for point in points} == set(values)
    known = sizes(lab, name, media.cases(name)[case])
    for point in points:
        shape = values[point.name].shape
        assert len(shape) == len(point.axes), point.name
        for axis, size in zip(point.axes, shape, strict=True):
            if axis == "frame" and "audio_encoder.hook_features" not in values:
                axis = "mel_frame"  # no tower halves the frames
            assert size == known.get(axis, size), (point.name, axis)


@pytest.mark.parametrize("name", SEEING)
def test_heads_and_widths_of_vision_blocks_are_those_of_the_config(lab: Lab, name: str) -> None:
    config = tower(lab, name, "vision").config
    values, at = lab.media_values(name, "several_images"), "vision_encoder.blocks.2."
    heads = (config.num_attention_heads, config.head_dim)
    assert values[at + "attn.hook_rot_q"].shape[2:] == heads
    assert values[at + "attn.hook_rot_k"].shape[2:] == (config.num_key_value_heads, heads[1])
    assert values[at + "hook_v_input"].shape[2:] == (config.num_key_value_heads, config.hidden_size)
    assert values[at + "attn.hook_result"].shape[2:] == (heads[0], config.hidden_size)
    assert values[at + "mlp.hook_post"].shape[2:] == (config.intermediate_size,)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_recording_changes_no_bit_and_leaves_nothing(lab: Lab, name: str, case: str) -> None:
    model, inputs = lab.reference(name), media.cases(name)[case].inputs
    with torch.no_grad():
        want = model(**reference_arguments(model, inputs)).logits
    assert torch.equal(capture_media(model, inputs)["hook_logits"], want)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(("name", "case"), CASES)
def test_every_value_is_near_the_one_in_float64(lab: Lab, name: str, case: str) -> None:
    """Rotation, pooling and the inside of the audio attention are written anew there."""
    want = lab.media_values(name, case, exactly=True)
    assert {value.dtype for value in want.values()} == {torch.float64, torch.int64}
    masks = media_compare.masks_of(media.cases(name)[case])
    assert not media_compare.disagreements(
        lab.media_points(name, case), lab.media_values(name, case), want, masks, FLOAT64_GAP
    )


@pytest.mark.parametrize("name", SEEING)
@pytest.mark.parametrize("case", ["several_images", "images_and_videos"])
def test_vision_streams_are_the_sums_of_what_is_added(lab: Lab, name: str, case: str) -> None:
    v, at = lab.media_values(name, case), "vision_encoder."
    stream = v[at + "hook_embed"] + v[at + "hook_pos_embed"]
    for i in range(tower(lab, name, "vision").config.num_hidden_layers):
        block = f"{at}blocks.{i}."
        assert torch.equal(v[block + "hook_resid_pre"], stream)
        stream = stream + v[block + "hook_attn_out"]
        assert torch.equal(v[block + "hook_resid_mid"], stream)
        stream = stream + v[block + "hook_mlp_out"]
        assert torch.equal(v[block + "hook_resid_post"], stream)


@pytest.mark.parametrize("name", SEEING)
def test_vision_attention_is_what_its_values_say(lab: Lab, name: str) -> None:
    v = lab.media_values(name, "several_images")
    mask = media_compare.masks_of(media.cases(name)["several_images"])["patch"]
    for i, layer in enumerate(tower(lab, name, "vision").encoder.layers):
        at = f"vision_encoder.blocks.{i}.attn."
        pattern, values = v[at + "hook_pattern"], v[at + "hook_v_normed"]
        torch.testing.assert_close(pattern, v[at + "hook_attn_scores"].softmax(-1))
        torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:3]))
        for image, seen in enumerate(mask):
            assert (pattern[image][..., ~seen] == 0).all()
            assert (pattern[image][..., seen] > 0).all()  # later patches too
        group = layer.self_attn.num_key_value_groups
        z = torch.einsum("bhqk,bkhd->bqhd", pattern, values.repeat_interleave(group, dim=2))
        torch.testing.assert_close(z, v[at + "hook_z"])
        o_proj, out = layer.self_attn.o_proj, v[at + "hook_result"].sum(2)
        if o_proj.use_clipped_linears:
            assert (out > o_proj.output_max).any()
            out = out.clamp(o_proj.output_min, o_proj.output_max)
        torch.testing.assert_close(out, v[at + "hook_out"])


def test_padding_patches_have_no_position(lab: Lab) -> None:
    for name in NAMES:
        at = "vision_embedder." if name == "unified_media" else "vision_encoder."
        added = lab.media_values(name, "left_padded")[at + "hook_pos_embed"]
        mask = media_compare.masks_of(media.cases(name)["left_padded"])["patch"]
        assert (added[~mask] == 0).all()
        assert (added[mask] != 0).all()


def test_standardised_tokens_are_moved_and_scaled(lab: Lab) -> None:
    v, model = lab.media_values("sight_moe", "batch"), tower(lab, "sight_moe", "vision")
    want = (v["vision_encoder.hook_pooled"] - model.std_bias) * model.std_scale
    assert torch.equal(v["vision_encoder.hook_out"], want)
    v = lab.media_values("sight_e2b", "batch")
    assert torch.equal(v["vision_encoder.hook_out"], v["vision_encoder.hook_pooled"])


def test_the_embedder_without_an_encoder_is_what_its_values_say(lab: Lab) -> None:
    model: Any = lab.reference("unified_media")
    embedder, case = model.model.embed_vision, media.cases("unified_media")["images_and_videos"]
    v, at = lab.media_values("unified_media", case.name), "vision_embedder."

    def normed(norm: Any, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + norm.eps)
        result: torch.Tensor = centred / scale * norm.weight + norm.bias
        return result

    given = [case.inputs["pixel_values"], case.inputs["pixel_values_videos"].flatten(0, 1)]
    n_images, n_patches = given[0].shape[:2]
    assert torch.equal(v[at + "hook_patches"][:n_images, :n_patches], given[0])
    assert torch.equal(v[at + "hook_patches"][n_images:], given[1])
    chain = {
        "hook_ln1": normed(embedder.patch_ln1, v[at + "hook_patches"]),
        "hook_dense": embedder.patch_dense(v[at + "hook_ln1"]),
        "hook_ln2": normed(embedder.patch_ln2, v[at + "hook_dense"]),
        "hook_out": normed(embedder.pos_norm, v[at + "hook_ln2"] + v[at + "hook_pos_embed"]),
    }
    masks = media_compare.masks_of(case)
    for name, want in chain.items():
        torch.testing.assert_close(v[at + name][masks["patch"]], want[masks["patch"]])
    assert torch.equal(v["vision_projector.hook_in"], v[at + "hook_out"][masks["patch"]])


@pytest.mark.parametrize("case", ["two_clips", "one_clip", "left_padded_clips"])
def test_audio_streams_are_the_sums_of_what_is_added(lab: Lab, case: str) -> None:
    v, audio = lab.media_values("sound", case), tower(lab, "sound", "audio")
    limit = audio.config.gradient_clipping
    stream = v["audio_encoder.hook_embed"]
    for i, layer in enumerate(audio.layers):
        at = f"audio_encoder.blocks.{i}."
        assert torch.equal(v[at + "hook_resid_pre"], stream)
        for part in ("ff1.hook_out", "hook_attn_out", "conv.hook_out", "ff2.hook_out"):
            stream = stream + v[at + part]
        clamped = stream.clamp(-limit, limit)
        scale = torch.sqrt(clamped.pow(2).mean(-1, keepdim=True) + layer.norm_out.eps)
        torch.testing.assert_close(
            v[at + "hook_resid_post"], clamped / scale * layer.norm_out.weight
        )
        stream = v[at + "hook_resid_post"]
    torch.testing.assert_close(v["audio_encoder.hook_out"], audio.output_proj(stream))


@pytest.mark.parametrize("case", ["two_clips", "left_padded_clips"])
def test_audio_attention_sees_the_frames_of_its_window(lab: Lab, case: str) -> None:
    """By loops: valid frames, at most context_left - 1 of them, the query's own among them."""
    v, config = lab.media_values("sound", case), tower(lab, "sound", "audio").config
    mask = media_compare.masks_of(media.cases("sound")[case])["frame"]
    chunk, past = config.attention_chunk_size, config.attention_context_left - 1
    for i in range(config.num_hidden_layers):
        at = f"audio_encoder.blocks.{i}.attn."
        pattern = v[at + "hook_pattern"]
        torch.testing.assert_close(pattern, v[at + "hook_attn_scores"].softmax(-1))
        assert v[at + "hook_attn_scores"].max() <= config.attention_logit_cap
        values, z = v[at + "hook_v"], v[at + "hook_z"]
        for clip in range(len(mask)):
            for q in mask[clip].nonzero().flatten().tolist():
                row = pattern[clip, :, q // chunk, q % chunk]
                frames = [q // chunk * chunk - past + k for k in range(row.shape[-1])]
                seen = [q - past < f <= q and f >= 0 and bool(mask[clip, f]) for f in frames]
                assert torch.equal(row > 0, torch.tensor(seen).expand_as(row))
                kept = [f for f, is_seen in zip(frames, seen, strict=True) if is_seen]
                want = torch.einsum("hk,khd->hd", row[:, seen], values[clip, kept])
                torch.testing.assert_close(z[clip, q], want, atol=1e-6, rtol=1e-5)


def test_the_light_convolution_is_what_its_values_say(lab: Lab) -> None:
    v = lab.media_values("sound", "one_clip")
    for i, layer in enumerate(tower(lab, "sound", "audio").layers):
        at = f"audio_encoder.blocks.{i}.conv."
        gated, gate = v[at + "hook_pre"].chunk(2, dim=-1)
        torch.testing.assert_close(v[at + "hook_glu"], gated * torch.sigmoid(gate))
        weight = layer.lconv1d.depthwise_conv1d.weight[:, 0]  # [d_audio step]
        n_frames, n_steps = v[at + "hook_glu"].shape[1], weight.shape[1]
        for frame in range(n_frames):
            want = torch.zeros(weight.shape[0])
            for step in range(n_steps):  # the last one is the frame itself
                if (past := frame - (n_steps - 1 - step)) >= 0:
                    want += weight[:, step] * v[at + "hook_glu"][0, past]
            torch.testing.assert_close(v[at + "hook_conv"][0, frame], want, atol=1e-6, rtol=1e-5)


def test_feed_forwards_are_halved_and_their_inside_is_activated(lab: Lab) -> None:
    v, audio = lab.media_values("sound", "two_clips"), tower(lab, "sound", "audio")
    for i, layer in enumerate(audio.layers):
        for part, module in (("ff1", layer.feed_forward1), ("ff2", layer.feed_forward2)):
            at = f"audio_encoder.blocks.{i}.{part}."
            torch.testing.assert_close(v[at + "hook_post"], F.silu(v[at + "hook_pre"]))
            out = module.ffw_layer_2(v[at + "hook_post"])
            out = out.clamp(-module.gradient_clipping, module.gradient_clipping)
            want = module.post_layer_norm(out) * audio.config.residual_weight
            torch.testing.assert_close(v[at + "hook_out"], want)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_projectors_divide_by_their_scale_and_have_no_gain(lab: Lab, name: str, case: str) -> None:
    v = lab.media_values(name, case)
    model: Any = lab.reference(name)
    for kind in ("vision", "audio"):
        at = f"{kind}_projector."
        if at + "hook_in" not in v:
            continue
        embedder = getattr(model.model, f"embed_{kind}")
        embedder = getattr(embedder, "multimodal_embedder", embedder)
        eps = embedder.embedding_pre_projection_norm.eps
        scale = torch.sqrt(v[at + "hook_in"].pow(2).mean(-1, keepdim=True) + eps)
        torch.testing.assert_close(v[at + "hook_scale"], scale)
        product = v[at + "hook_normalized"] * v[at + "hook_scale"]
        torch.testing.assert_close(product, v[at + "hook_in"])
        out = F.linear(v[at + "hook_normalized"], embedder.embedding_projection.weight)
        torch.testing.assert_close(v[at + "hook_out"], out)
