"""The transformers model as an oracle in float64: nothing passes through float32.

The reference keeps its norms, softmax, router and rotary angles in float32 even when its weights
are float64; here those few lines are replaced by float64 ones, written from their formulas.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import nn

from bezel.reference.recorder import text_model_of


def _norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    normed = x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + module.eps)
    return normed * module.weight if module.with_scale else normed


def _router(module: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    scores = module.proj(module.norm(x) * module.scale * module.hidden_size**-0.5)
    probs = torch.softmax(scores, dim=-1)
    weights, indices = torch.topk(probs, k=module.config.top_k_experts, dim=-1)
    weights = weights / weights.sum(-1, keepdim=True)
    return probs, weights * module.per_expert_scale[indices], indices


def rotary_angles(config: Any, layer_type: str, head_dim: int) -> torch.Tensor:
    """theta^(-2i/d), i < d/2; "proportional" turns only the first pairs."""
    rope = config.rope_parameters[layer_type]
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    angles = rope["rope_theta"] ** -exponents
    if rope["rope_type"] == "proportional":
        angles[int(rope["partial_rotary_factor"] * head_dim // 2) :] = 0.0
    return angles


def _rotary(
    config: Any, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str
) -> tuple[torch.Tensor, torch.Tensor]:
    head_dim = config.per_layer_config[layer_type].head_dim
    turns = position_ids[..., None].double() * rotary_angles(config, layer_type, head_dim)
    turns = torch.cat((turns, turns), dim=-1)
    return turns.cos(), turns.sin()


def exact_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(z [batch pos head d_head], pattern) in the tensors' own dtype; inputs [batch head pos d]."""
    groups = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(groups, dim=1)
    value = value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3)
    pattern = torch.softmax(scores if mask is None else scores + mask, dim=-1)
    return (pattern @ value).transpose(1, 2), pattern


def exact(model: nn.Module) -> nn.Module:
    """A float64 copy of a float32 transformers model; run it through `reference.capture`."""
    oracle = copy.deepcopy(model).double()
    for module in oracle.modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm"):
            module.forward = functools.partial(_norm, module)
        elif kind.endswith("TextRouter"):
            module.forward = functools.partial(_router, module)
        elif kind.endswith("TextScaledWordEmbedding"):
            module.embed_scale = torch.tensor(module.scalar_embed_scale, dtype=torch.float64)
    text = text_model_of(oracle)
    text.rotary_emb.forward = functools.partial(_rotary, text.config)
    return oracle
