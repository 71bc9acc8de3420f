"""What single heads and neurons add to the stream: through the post-norm, at its recorded scale."""

from __future__ import annotations

import torch

from bezel.cache_slice import Cut
from bezel.cache_values import CachedValues
from bezel.component_reading import Reading
from bezel.decomposition_checks import check_product
from bezel.decomposition_inputs import Norm, Weights, model_of, wide

_NO_CUT = Cut(None)


def head_names(cache: CachedValues, layer: int) -> list[str]:
    """What the results of a block's heads are computed from and compared with."""
    block = f"blocks.{layer}."
    result = block + "attn.hook_result"
    heads = result if result in cache else block + "attn.hook_z"
    return [heads, block + "ln1_post.hook_scale", block + "hook_attn_out"]


def raw_head_results(cache: CachedValues, layer: int, positions: Cut = _NO_CUT) -> torch.Tensor:
    """attn.hook_result [batch pos head d_model], wide: recorded, or from hook_z and W_O."""
    block = f"blocks.{layer}.attn."
    if block + "hook_result" in cache:
        return wide(positions.apply(cache[block + "hook_result"], -3))
    z = positions.apply(cache[block + "hook_z"], -3)
    out = Weights(model_of(cache)).beside(f"layers.{layer}.attention.out", z)
    per_head = out.reshape(-1, *z.shape[-2:])  # [d_model head d_head]
    return torch.einsum("...hd,mhd->...hm", z.to(out.dtype), per_head)


def head_results(cache: CachedValues, layer: int, positions: Cut) -> torch.Tensor:
    """[batch pos head d_model]: they sum to hook_attn_out of the block."""
    norm = Norm.of_block(layer, "ln1_post")
    raw = raw_head_results(cache, layer, positions)
    gain = Weights(model_of(cache)).beside(norm.slot, raw)
    results = raw / norm.scale(cache, positions).unsqueeze(-1) * gain
    name = f"blocks.{layer}.hook_attn_out"
    whole = positions.apply(cache[name], -2)
    check_product(cache, results.sum(-2), results.norm(dim=-1), name, whole)
    return results


def _norms(cache: CachedValues, layer: int) -> tuple[list[Norm], list[Norm]]:
    """The norms that the dense MLP's output and the experts' go through, from the inside out."""
    last = Norm.of_block(layer, "ln2_post")
    if model_of(cache).cfg.layers[layer].moe is None:
        return [last], []
    return [Norm.of_block(layer, "ln2_dense_post"), last], [
        Norm.of_block(layer, "ln2_moe_post"),
        last,
    ]


def mlp_names(cache: CachedValues, layer: int) -> list[str]:
    """What the results of a block's neurons and experts are computed from and compared with."""
    block = f"blocks.{layer}."
    dense, experts = _norms(cache, layer)
    names = [block + "mlp.hook_post", *(norm.scale_name for norm in dense)]
    if experts:
        names += [block + "moe.hook_out", *(norm.scale_name for norm in experts)]
    return [*dict.fromkeys(names), block + "hook_mlp_out"]


def expert_result(cache: CachedValues, layer: int, positions: Cut) -> torch.Tensor:
    """[batch pos d_model]: what all experts of a block add to the stream together."""
    out = positions.apply(cache[f"blocks.{layer}.moe.hook_out"], -2)
    weights = Weights(model_of(cache))
    _, norms = _norms(cache, layer)
    for norm in norms:
        gain = weights.beside(norm.slot, out)
        out = out.to(gain.dtype) / norm.scale(cache, positions) * gain
    return out


class Neurons:
    """A block's dense MLP as a sum: neuron n adds activations[…, n] · directions[n].

    Attributes:
        activations: mlp.hook_post over the post-norms' recorded scales [batch pos d_mlp].
        directions: The rows of W_out with the post-norms' gains [d_mlp d_model].
    """

    def __init__(self, cache: CachedValues, layer: int, positions: Cut) -> None:
        weights = Weights(model_of(cache))
        post = positions.apply(cache[f"blocks.{layer}.mlp.hook_post"], -2)
        down = weights.beside(f"layers.{layer}.mlp.down", post)
        self.activations, self.directions = post.to(down.dtype), down.T
        dense, experts = _norms(cache, layer)
        for norm in dense:
            self.activations = self.activations / norm.scale(cache, positions)
            self.directions = self.directions * weights.beside(norm.slot, post)
        self._check(cache, layer, positions, has_experts=bool(experts))

    def results(self, chosen: Cut, reading: Reading, factor: float = 1.0) -> torch.Tensor:
        """[batch pos neuron d_model], or as it is read."""
        factors = chosen.apply(self.activations, -1) * factor
        rows = chosen.apply(self.directions, 0)
        if not chosen.drops_axis:
            return reading.of_products(factors, rows)
        return reading.of_products(factors.unsqueeze(-1), rows.unsqueeze(0)).squeeze(-2)

    def _check(self, cache: CachedValues, layer: int, positions: Cut, has_experts: bool) -> None:
        sizes = self.activations.square() @ self.directions.square().sum(-1, keepdim=True)
        whole = self.activations @ self.directions
        if has_experts:
            experts = expert_result(cache, layer, positions)
            whole = whole + experts
            sizes = sizes + experts.square().sum(-1, keepdim=True)
        name = f"blocks.{layer}.hook_mlp_out"
        check_product(cache, whole, sizes.sqrt(), name, positions.apply(cache[name], -2))
