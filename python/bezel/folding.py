"""A copy of a model whose norm gains stand in the projections that follow them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

_BLOCK = re.compile(r"layers\.\d+\.")

# Projections that read a norm's output alone, by the slot of its gain; columns are d_model.
_READERS = {
    "ln1": "attention.qkv",
    "ln2": "mlp.gate_up",
    "moe.ln2_moe": "moe.gate_up",
    "moe.router_scale": "moe.router",
}


@torch.no_grad()
def folded_weights(
    slots: Mapping[str, torch.Tensor], w_u: torch.Tensor, share_unchanged: bool
) -> dict[str, torch.Tensor]:
    """The tensors of the folded copy by slot; those missing are shared with the original.

    Args:
        slots: The original's tensors.
        w_u: Its unembedding [d_model d_vocab].
        share_unchanged: False copies what folding leaves alone.
    """
    folded = {"unembed": _times_gain(w_u.T, slots["ln_final"])}
    folded["ln_final"] = torch.ones_like(slots["ln_final"])
    for name, gain in slots.items():
        block = _BLOCK.match(name)
        row = name[block.end() :] if block else ""
        if block and row in _READERS:
            reader = block[0] + _READERS[row]
            folded[reader] = _times_gain(slots[reader], gain)
            folded[name] = torch.ones_like(gain)
    if not share_unchanged:
        folded |= {name: w.clone() for name, w in slots.items() if name not in folded}
    return folded


def _times_gain(weight: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """The weight [… d_model] times the gain [d_model]; rounded once, to the weight's dtype."""
    product = weight.float() * gain.float() if weight.dtype == torch.bfloat16 else weight * gain
    return product.to(weight.dtype)
