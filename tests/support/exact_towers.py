"""The transformers model with its towers as an oracle in float64.

As it is, the reference refuses float64 in its audio tower (queries pass through float32, keys and
scales do not) and pools and turns in float32; those lines are replaced by float64 ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from bezel.reference import towers
from bezel.reference.audio_attention import audio_attention
from bezel.reference.media import record_media
from support import reference
from support.exact import exact
from support.reference import Values


class Recorder(reference.Recorder, towers.MediaRecorder):
    """Takes the values of towers in float64 too."""


@torch.no_grad()
def capture_media(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Values:
    """As bezel.reference.media.capture_media, of float64 oracles too."""
    dtype = next(model.parameters()).dtype
    if dtype == torch.float64:
        inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    return record_media(Recorder(model, *inputs["input_ids"].shape), inputs)


def _turns(module: Any, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Of x in the first half of a head and of y in the second, each angle twice."""
    config = module.config
    half = config.head_dim // 2
    exponents = torch.arange(0, half, 2, dtype=torch.float64) / half
    angles = config.rope_parameters["rope_theta"] ** -exponents
    by_axis = positions[..., None].double() * angles  # [image patch 2 angle]
    turns = torch.cat([by_axis, by_axis], dim=-1).flatten(-2)
    return turns.cos(), turns.sin()


def _pooled(
    module: Any, hidden_states: torch.Tensor, pixel_position_ids: torch.Tensor,
    padding_positions: torch.Tensor, output_length: int,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Patch by patch: each adds its share to the soft token that it lies in."""
    side = round((hidden_states.shape[1] / output_length) ** 0.5)
    pooled = hidden_states.new_zeros(len(hidden_states), output_length, hidden_states.shape[-1])
    used = torch.zeros(pooled.shape[:2], dtype=torch.bool)
    for i, positions in enumerate(pixel_position_ids.tolist()):
        width = max(x for x, _ in positions) + 1
        for patch, (x, y) in enumerate(positions):
            if x >= 0:
                soft = x // side + (width // side) * (y // side)
                pooled[i, soft] += hidden_states[i, patch] / side**2
                used[i, soft] = True
    return pooled * module.hidden_size**0.5, used


def _audio_attention(
    module: Any, hidden_states: torch.Tensor, position_embeddings: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    shape = (*hidden_states.shape[:2], module.num_heads, module.head_dim)
    q, k, v = (getattr(module, f"{x}_proj")(hidden_states).view(shape) for x in "qkv")
    found = audio_attention(module, (q, k, v), position_embeddings, attention_mask)
    return module.post(found.z.flatten(2)), found.pattern


def _relative_positions(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """sin and cos of how far back a key lies, the farthest first."""
    n = module.hidden_size // 2
    steps = torch.arange(n, dtype=torch.float64) / max(n - 1, 1)
    back = torch.arange(module.context_size // 2, -1, -1, dtype=torch.float64)
    turns = back[:, None] * 10000.0**-steps
    return torch.cat([turns.sin(), turns.cos()], dim=-1)[None]


_LINES: dict[str, Callable[..., Any]] = {
    "VisionRotaryEmbedding": _turns,
    "VisionPooler": _pooled,
    "AudioAttention": _audio_attention,
    "AudioRelPositionalEncoding": _relative_positions,
}


def exact_towers(model: nn.Module) -> nn.Module:
    """A float64 copy of a float32 multimodal model; run it through `capture_media` above."""
    oracle = exact(model)
    for module in oracle.modules():
        line = _LINES.get(type(module).__name__.removeprefix("Gemma4"))
        if line is not None:
            module.forward = functools.partial(line, module)
    return oracle
