"""The additive graph of a model: who writes into the stream, who reads it, and by what factor."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from bezel.bridge import Bridge


class Sender(NamedTuple):
    """Something that is added to the stream, or (place None) the per-layer inputs beside it."""

    label: str
    names: list[str]
    place: tuple[int, int] | None  # (layer, order in the block)


class Receiver(NamedTuple):
    """A branch that reads the stream."""

    label: str
    name: str  # the value whose gradient is taken
    place: tuple[int, int]
    matrix: torch.Tensor | None = None  # the value is this [out d_model] times the stream
    beside: tuple[str, ...] = ()  # what else it reads


def senders_of(model: Bridge) -> list[Sender]:
    """In the order of a run."""
    senders = [Sender("embed", ["hook_full_embed"], (-1, 0))]
    n_layers = model.cfg.n_layers
    if model.cfg.d_ple:
        inputs = [f"blocks.{i}.ple.hook_input" for i in range(n_layers)]
        senders.append(Sender("ple_inputs", inputs, None))
    parts = ["attn_out", "mlp_out"] + (["ple_out"] if model.cfg.d_ple else [])
    for i in range(n_layers):
        for order, part in enumerate(parts):
            senders.append(Sender(f"{i}_{part}", [f"blocks.{i}.hook_{part}"], (i, order)))
    return senders


def receivers_of(model: Bridge) -> list[Receiver]:
    """In the order of a run."""
    receivers = []
    weights = dict(model.named_weights())
    for i in range(model.cfg.n_layers):
        receivers.append(Receiver(f"{i}_attn_in", f"blocks.{i}.hook_attn_in", (i, 0)))
        receivers.append(Receiver(f"{i}_mlp_in", f"blocks.{i}.hook_mlp_in", (i, 1)))
        if model.cfg.d_ple:
            gate, beside = f"blocks.{i}.ple.hook_gate", (f"blocks.{i}.ple.hook_input",)
            matrix = weights[f"layers.{i}.ple.gate"].detach()
            receivers.append(Receiver(f"{i}_ple_in", gate, (i, 2), matrix, beside))
    last = model.cfg.n_layers - 1
    receivers.append(Receiver("logits", f"blocks.{last}.hook_resid_post", (model.cfg.n_layers, 0)))
    return receivers


def share(model: Bridge, sender: Sender, receiver: Receiver) -> float | None:
    """What arrives of 1 that is sent: the layer scalars between; None without an edge."""
    if sender.place is None or sender.place >= receiver.place:
        return None
    first = max(sender.place[0], 0)
    scalars: list[float] = model.layer_scalars.detach().double().tolist()
    return math.prod(scalars[first : receiver.place[0]])
