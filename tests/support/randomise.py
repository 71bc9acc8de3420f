"""Weights for the fixtures: deterministic, and with every tensor moved off its initial value.

A freshly initialised Gemma 4 has norm weights, layer scalars and expert scales of one: a model
that forgets to apply them would pass. Activations are of order one and attention is not uniform.
"""

from __future__ import annotations

import zlib

import torch
from torch import nn

# Embeddings are a little larger than the branches add, so that logits reach the softcap's bend.
EMBEDDING_GAIN = 1.5
ROUTER_GAIN = 1.5


def _generator(seed: int, name: str) -> torch.Generator:
    """A stream of its own for each tensor: adding a tensor does not change the others."""
    return torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))


def _uniform(like: torch.Tensor, low: float, high: float, rng: torch.Generator) -> torch.Tensor:
    return torch.rand(like.shape, generator=rng) * (high - low) + low


def _normal(like: torch.Tensor, std: float, rng: torch.Generator) -> torch.Tensor:
    return torch.randn(like.shape, generator=rng) * std


def _fan_in(name: str, tensor: torch.Tensor) -> int:
    if ".experts." in name:
        return tensor.shape[-1]  # [expert out in]
    return tensor[0].numel() if tensor.dim() > 1 else tensor.numel()


def fresh_value(name: str, tensor: torch.Tensor, seed: int) -> torch.Tensor:
    """A random value for the tensor of this name, of a size that keeps activations near one."""
    rng = _generator(seed, name)
    last = name.rsplit(".", 1)[-1]
    if last == "layer_scalar":
        return _uniform(tensor, 0.6, 1.4, rng)
    if last in ("input_min", "output_min"):
        return _uniform(tensor, -3.0, -1.5, rng)
    if last in ("input_max", "output_max"):
        return _uniform(tensor, 1.5, 3.0, rng)
    if last == "per_dim_scale":
        return _uniform(tensor, -0.5, 0.5, rng)
    if last in ("bias", "std_bias", "position_embedding_table", "pos_embedding"):
        return _normal(tensor, 0.3, rng)
    if last in ("scale", "per_expert_scale", "std_scale") or tensor.dim() == 1:
        return _uniform(tensor, 0.5, 1.5, rng)  # norm weights are the only other vectors
    if name.endswith(("embed_tokens.weight", "lm_head.weight")):
        return _normal(tensor, EMBEDDING_GAIN * tensor.shape[1] ** -0.5, rng)
    if name.endswith("router.proj.weight"):
        return _normal(tensor, ROUTER_GAIN, rng)
    return _normal(tensor, _fan_in(name, tensor) ** -0.5, rng)


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    """Gives every saved tensor of the model a fresh value; tied tensors get one value."""
    filled: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in filled:
            continue
        filled.add(tensor.data_ptr())
        tensor.copy_(fresh_value(name, tensor, seed))
