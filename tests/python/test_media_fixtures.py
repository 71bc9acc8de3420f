"""The towers of the media recipes are felt in every part, and their cases hold what they claim."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bezel.reference.media import reference_arguments
from support import checkpoint_forms, media
from support.fixtures import recipe_of
from support.lab import Lab
from support.media_fixtures import MEDIA_RECIPES

NAMES = tuple(MEDIA_RECIPES)
CLIPPED = ("sight_e2b", "sound")
LEAST_CLIPPED = 0.003  # share of the elements
INFINITY = float("inf")
N_NEUTRAL = {"sight_e2b": 100, "sight_moe": 20, "sound": 220, "unified_media": 8}  # at least
# What transformers gives before training, by the last word of a tensor's name.
NEUTRAL = {
    "input_min": -INFINITY, "output_min": -INFINITY, "input_max": INFINITY, "output_max": INFINITY,
    "per_dim_scale": 0.0, "bias": 0.0, "std_bias": 0.0, "std_scale": 1.0,
    "position_embedding_table": 1.0, "pos_embedding": 0.0,
}  # fmt: skip


def run(model: Any, case: media.MediaCase) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(**reference_arguments(model, case.inputs)).logits
    return logits


def clippable(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if hasattr(m, "input_min")}


@pytest.mark.parametrize("name", CLIPPED)
def test_every_clip_bound_bites(lab: Lab, name: str) -> None:
    """Below and above, before and behind the product, in one case or another."""
    model = lab.reference(name)
    inputs, outputs = defaultdict(list), defaultdict(list)

    def watch(key: str) -> Callable[..., None]:
        def see(module: Any, args: tuple[Any, ...], out: Any) -> None:
            inputs[key].append(args[0].flatten())
            low, high = module.input_min, module.input_max
            outputs[key].append(module.linear(args[0].clamp(low, high)).flatten())

        return see

    handles = [m.register_forward_hook(watch(key)) for key, m in clippable(model).items()]
    for case in media.cases(name).values():
        run(model, case)
    for handle in handles:
        handle.remove()
    assert len(inputs) >= 21
    for key, module in clippable(model).items():
        for side, seen in (("input", inputs[key]), ("output", outputs[key])):
            low, high = getattr(module, f"{side}_min"), getattr(module, f"{side}_max")
            values = torch.cat(seen)
            clipped = ((values < low) | (values > high)).float().mean()
            assert LEAST_CLIPPED < clipped < 0.5, (key, side)


def neutral_of(key: str, tensor: torch.Tensor) -> torch.Tensor | None:
    """The tensor as it is before training; None for projections, which are random then too."""
    last = key.rsplit(".", 1)[-1]
    if last in NEUTRAL:
        return torch.full_like(tensor, NEUTRAL[last])
    return torch.ones_like(tensor) if tensor.ndim == 1 else None


def hidden(key: str, tensor: torch.Tensor) -> bool:
    """Whether a clip can have no effect of its own, because another one cuts off more."""
    if key.endswith((".ffw_layer_1.output_max", ".ffw_layer_2.input_max")):
        return True  # the activation between them rises: one of the two bounds both
    clamped = (
        ".post.output_min",
        ".post.output_max",
        ".ffw_layer_2.output_min",
        ".ffw_layer_2.output_max",
    )
    limit = (MEDIA_RECIPES["sound"].audio or {})["gradient_clipping"]
    return key.endswith(clamped) and bool(tensor.abs() >= limit)


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_left_neutral_changes_the_logits(lab: Lab, name: str) -> None:
    model = copy.deepcopy(lab.reference(name))
    case = media.widest_case(name)
    want, n_seen = run(model, case), 0
    for key, tensor in model.state_dict().items():
        neutral = neutral_of(key, tensor)
        if "language_model" in key or "lm_head" in key or neutral is None or hidden(key, tensor):
            continue
        kept = tensor.clone()
        tensor.copy_(neutral)
        assert (run(model, case) - want)[case.valid].abs().max() > 1e-4, key
        tensor.copy_(kept)
        n_seen += 1
    assert n_seen >= N_NEUTRAL[name]
    assert torch.equal(run(model, case), want)


def test_the_audio_tower_bends_and_clamps(lab: Lab) -> None:
    model: Any = lab.reference("sound")
    config = model.config.audio_config
    values = lab.media_values("sound", "two_clips")
    seen = values["audio_encoder.blocks.0.attn.hook_attn_scores"]
    seen = seen[seen > config.attention_invalid_logits_value]
    assert (seen.abs() > config.attention_logit_cap / 2).float().mean() > 0.05
    for i in range(config.num_hidden_layers):
        stream = values[f"audio_encoder.blocks.{i}.hook_resid_pre"].abs()
        share = (stream > config.gradient_clipping).float().mean()
        assert LEAST_CLIPPED < share < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_tokens_and_features_agree_in_number(lab: Lab, name: str) -> None:
    for case in media.cases(name).values():
        types = case.inputs["mm_token_type_ids"]
        values = lab.media_values(name, case.name)
        n_seen = int(((types == media.IMAGE) | (types == media.VIDEO)).sum())
        if n_seen:
            assert len(values["vision_projector.hook_out"]) == n_seen
        assert (types > 0).any()
        assert not (types > 0)[~case.valid].any()


@pytest.mark.parametrize("name", NAMES)
def test_media_stand_everywhere(name: str) -> None:
    cases = media.cases(name)
    assert (cases["start_and_end"].inputs["mm_token_type_ids"][0, [0, -1]] == media.IMAGE).all()
    block = (cases["across_the_window"].inputs["mm_token_type_ids"][0] > 0).int().tolist()
    longest = max(map(len, "".join(map(str, block)).split("0")))
    assert longest >= recipe_of(name).window
    assert cases["batch"].tokens.shape[0] == 3
    assert "attention_mask" not in cases["batch"].inputs
    assert (~cases["left_padded"].valid[:, 0]).any()
    positions = cases["several_images"].inputs["image_position_ids"]
    sizes = {tuple((grid.amax(dim=0) + 1).tolist()) for grid in positions}
    assert len(sizes) == 3
    assert (positions == -1).all(dim=-1).any(dim=1).all()
    table = recipe_of(name).vision or {}
    rows = table.get("position_embedding_size") or table["mm_posemb_size"]
    assert all(
        case.inputs["image_position_ids"].max() < rows
        for case in cases.values()
        if "image_position_ids" in case.inputs
    )


def test_clips_end_inside_a_stride_and_inside_a_chunk() -> None:
    chunk = (recipe_of("sound").audio or {})["attention_chunk_size"]
    for name in ("one_clip", "two_clips"):
        frames = media.cases("sound")[name].inputs["input_features_mask"].sum(1)
        assert (frames % 4 > 0).all()
        assert ((frames + 3) // 4 % chunk > 0).all()
        assert ((frames + 3) // 4 > chunk).all()


def test_forms_of_media_checkpoints_exist() -> None:
    assert "class_layout" in checkpoint_forms.forms_of("unified_media")
    assert "class_layout" not in checkpoint_forms.forms_of("sound")
