"""The parts of the stream by slow loops, from recorded values and the checkpoint's own tensors.

A second way to the decompositions: every part is carried from block to block and multiplied by each
block's scalar as the stream is; heads and neurons are taken one by one through the post-norm, whose
root-mean-square is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from support import checkpoint_forms, fixtures

Values = Mapping[str, torch.Tensor]
Parts = dict[str, torch.Tensor]


class Checkpoint:
    """A fixture's text weights in float64, by their names without the prefix."""

    def __init__(self, name: str, folder: Path) -> None:
        config = checkpoint_forms.text_part(checkpoint_forms.read_config(folder))
        self.n_layers: int = config["num_hidden_layers"]
        self.n_heads: int = config["num_attention_heads"]
        self.eps: float = config["rms_norm_eps"]
        prefix = "model.language_model." if fixtures.RECIPES[name].wrapper != "none" else "model."
        self.weights = {
            key.removeprefix(prefix): value.double()
            for key, value in checkpoint_forms.load_tensors(folder).items()
            if key.startswith(prefix)
        }

    def at(self, layer: int, name: str) -> torch.Tensor:
        return self.weights[f"layers.{layer}.{name}"]

    def through_norm(self, part: torch.Tensor, whole: torch.Tensor, gain: str) -> torch.Tensor:
        """A summand of `whole` through the norm of `whole`."""
        root_mean_square = (whole.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()
        return part / root_mean_square * self.weights[f"{gain}.weight"]


Finer = Callable[[Checkpoint, Values, int], Parts]


def _branch(row: str) -> Finer:
    def part(_: Checkpoint, values: Values, layer: int) -> Parts:
        name = f"blocks.{layer}.hook_{row}"
        return {f"{layer}_{row}": values[name].double()} if name in values else {}

    return part


attn_out, mlp_out, ple_out = _branch("attn_out"), _branch("mlp_out"), _branch("ple_out")


def heads(checkpoint: Checkpoint, values: Values, layer: int) -> Parts:
    """What each head adds: its columns of o_proj, then the post-norm of the sum of all."""
    z = values[f"blocks.{layer}.attn.hook_z"].double()
    out = checkpoint.at(layer, "self_attn.o_proj.weight")
    d_head = z.shape[-1]
    results = []
    for head in range(checkpoint.n_heads):
        columns = out[:, head * d_head : (head + 1) * d_head]
        results.append(z[..., head, :] @ columns.T)
    whole = torch.stack(results).sum(0)
    gain = f"layers.{layer}.post_attention_layernorm"
    return {
        f"L{layer}H{head}": checkpoint.through_norm(result, whole, gain)
        for head, result in enumerate(results)
    }


def _feed_forward(checkpoint: Checkpoint, values: Values, layer: int) -> tuple[Parts, Parts]:
    post = values[f"blocks.{layer}.mlp.hook_post"].double()
    down = checkpoint.at(layer, "mlp.down_proj.weight")
    neurons = {f"L{layer}N{n}": post[..., n : n + 1] * down[:, n] for n in range(post.shape[-1])}
    experts = {}
    at = f"layers.{layer}.post_feedforward_layernorm"
    if (name := f"blocks.{layer}.moe.hook_out") in values:
        dense = torch.stack(list(neurons.values())).sum(0)
        neurons = {
            label: checkpoint.through_norm(part, dense, f"{at}_1")
            for label, part in neurons.items()
        }
        out = values[name].double()
        experts = {f"{layer}_experts": checkpoint.through_norm(out, out, f"{at}_2")}
    whole = torch.stack([*neurons.values(), *experts.values()]).sum(0)

    def normed(parts: Parts) -> Parts:
        return {label: checkpoint.through_norm(part, whole, at) for label, part in parts.items()}

    return normed(neurons), normed(experts)


def neurons(checkpoint: Checkpoint, values: Values, layer: int) -> Parts:
    return _feed_forward(checkpoint, values, layer)[0]


def experts(checkpoint: Checkpoint, values: Values, layer: int) -> Parts:
    return _feed_forward(checkpoint, values, layer)[1]


def parts(
    checkpoint: Checkpoint,
    values: Values,
    kinds: tuple[Finer, ...],
    stop: int,
    also: tuple[Finer, ...] = (),
) -> Parts:
    """All parts of these kinds as they enter block `stop`; `also`: of block `stop` itself."""
    found: Parts = {}
    for layer in range(stop):
        for kind in kinds:
            found |= kind(checkpoint, values, layer)
        scalar = checkpoint.at(layer, "layer_scalar")
        found = {label: part * scalar for label, part in found.items()}
    for kind in also:
        found |= kind(checkpoint, values, stop)
    return found


def embed(checkpoint: Checkpoint, values: Values, stop: int) -> Parts:
    """The embedding as it enters block `stop`."""
    part = values["hook_full_embed"].double()
    for layer in range(stop):
        part = part * checkpoint.at(layer, "layer_scalar")
    return {"embed": part}
