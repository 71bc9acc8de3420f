"""The values of one run of the transformers model with images, videos and sounds, by name."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from bezel.reference.recorder import Values
from bezel.reference.towers import MediaRecorder
from bezel.reference.values import positions_from, record

_TYPES = ("image", "video", "audio")  # 1, 2, 3 in mm_token_type_ids


@torch.no_grad()
def capture_media(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Values:
    """Runs the model and returns the values of text, towers and projectors by name.

    Args:
        model: A Gemma 4 conditional-generation or unified model; "eager" attention in text and
            vision for scores and patterns, another in the audio tower.
        inputs: Forward arguments, `input_ids` among them; see `reference_arguments`.

    Returns:
        Every name whose part of the model ran, the on-demand ones too. At padding patches and
        frames the values carry no promise.

    Raises:
        ValueError: The audio tower has "eager" attention, which reads its masks inverted.
    """
    return record_media(MediaRecorder(model, *inputs["input_ids"].shape), inputs)


def record_media(recorder: MediaRecorder, inputs: Mapping[str, torch.Tensor]) -> Values:
    """`capture_media` with a recorder of the caller's."""
    values = record(recorder, **reference_arguments(recorder.model, inputs))
    return values | completed_tower_values(recorder)


def completed_tower_values(recorder: MediaRecorder) -> Values:
    """What a recorder saw in towers and projectors, and what the reference never makes there."""
    values = recorder.tower_values()
    if "vision_encoder.hook_out" in values:
        for i, layer in enumerate(recorder.model.model.vision_tower.encoder.layers):
            complete_vision_block(values, f"vision_encoder.blocks.{i}.", layer.self_attn.o_proj)
    return values


def reference_arguments(model: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The arguments with which transformers computes what bezel does.

    Positions count the valid tokens, and all frames are valid where no mask says otherwise. The
    unified class gets its masks from its own builder: its forward lets images see each other in
    full layers too and past the window, unlike that builder and the other sizes.
    """
    given: dict[str, Any] = dict(inputs)
    audio_config = getattr(getattr(model.model, "audio_tower", None), "config", None)
    if "input_features" in given:
        if audio_config is not None and audio_config._attn_implementation == "eager":
            raise ValueError('the audio tower reads "eager" masks inverted; load it with "sdpa"')
        all_frames = torch.ones(given["input_features"].shape[:2], dtype=torch.bool)
        given.setdefault("input_features_mask", all_frames.to(given["input_features"].device))
    if (mask := given.get("attention_mask")) is not None:
        given.setdefault("position_ids", positions_from(mask))
    given.setdefault("mm_token_type_ids", token_types(model.config, given["input_ids"]))
    if "Unified" in type(model).__name__:
        given["attention_mask"] = _unified_masks(model, given)
        del given["mm_token_type_ids"]
    return given


def token_types(config: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """0 for text, 1, 2 and 3 for tokens of images, videos and sounds, as the ids."""
    types = torch.zeros_like(input_ids)
    for i, kind in enumerate(_TYPES):
        types[input_ids == getattr(config, f"{kind}_token_id")] = i + 1
    return types


def _unified_masks(model: Any, given: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    modeling: Any = sys.modules[type(model).__module__]
    text = model.config.get_text_config()
    tokens, types = given["input_ids"], given["mm_token_type_ids"]
    positions = given.get("position_ids")
    if positions is None:
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
    arguments = {
        "config": text,
        "inputs_embeds": torch.empty(
            *tokens.shape, text.hidden_size, dtype=model.dtype, device=tokens.device
        ),
        "attention_mask": given.get("attention_mask"),
        "past_key_values": None,
        "position_ids": positions,
    }
    blocks = modeling.get_block_sequence_ids_for_mask(types, device=tokens.device)
    masks: dict[str, torch.Tensor] = modeling.create_masks_for_vision_model(
        block_sequence_ids=blocks, **arguments
    )
    return masks


def complete_vision_block(values: Values, at: str, o_proj: Any) -> None:
    """Adds what the reference never makes: branch inputs and per-head results."""
    stream, z = values[at + "hook_resid_pre"], values[at + "attn.hook_z"]
    n_heads, d_head = z.shape[-2:]
    n_kv_heads = values[at + "attn.hook_k"].shape[2]
    values[at + "hook_attn_in"] = stream
    values[at + "hook_mlp_in"] = values[at + "hook_resid_mid"]
    for x, n in (("q", n_heads), ("k", n_kv_heads), ("v", n_kv_heads)):
        values[f"{at}hook_{x}_input"] = stream[:, :, None].repeat(1, 1, n, 1)
    if o_proj.use_clipped_linears:
        z = z.clamp(o_proj.input_min, o_proj.input_max)
    weight = o_proj.linear.weight
    values[at + "attn.hook_result"] = torch.stack(
        [z[:, :, h] @ weight[:, h * d_head : (h + 1) * d_head].T for h in range(n_heads)], dim=2
    )
