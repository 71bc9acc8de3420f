"""Which edges between components carry a difference: edge attribution with integrated gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

import torch

from bezel.arguments import ModelInput
from bezel.errors import ArgumentError
from bezel.patching.attribution import Differentiable, difference_of, gradients, values_of
from bezel.patching.corrupted import SweepArguments
from bezel.patching.graph import Receiver, Sender, receivers_of, senders_of, share
from bezel.patching.sweep import Values

if TYPE_CHECKING:
    from bezel.bridge import Bridge

_INPUTS = ("hook_full_embed", "ple.hook_token")


@dataclass(frozen=True)
class EdgeScores:
    """Scores of edges.

    Attributes:
        scores: [sender receiver], float64; NaN where no edge is.
        senders: Labels of the first axis.
        receivers: Labels of the second.

    Example:
        >>> scores = torch.tensor([[0.5, float("nan")]], dtype=torch.float64)
        >>> EdgeScores(scores, ["0_mlp_out"], ["1_attn_in", "0_attn_in"])["0_mlp_out", "1_attn_in"]
        0.5
    """

    scores: torch.Tensor
    senders: list[str]
    receivers: list[str]

    def __getitem__(self, edge: tuple[str, str]) -> float:
        """The score of an edge: ("3_mlp_out", "5_attn_in")."""
        for label, labels in zip(edge, (self.senders, self.receivers), strict=True):
            if label not in labels:
                raise ArgumentError(f"{label!r} is none of {', '.join(labels)}")
        return float(self.scores[self.senders.index(edge[0]), self.receivers.index(edge[1])])


def edge_attribution(
    model: Bridge,
    tokens: ModelInput,
    clean: Values | ModelInput,
    metric: Differentiable,
    n_steps: int = 5,
    **arguments: Unpack[SweepArguments],
) -> EdgeScores:
    """How much the metric would change, to first order, if one edge carried its clean value.

    EAP-IG of Hanna et al. (2024), "Have faith in faithfulness": the score of an edge from u to v is
    (clean output of u - corrupted output of u) · the mean of d metric / d (input of v) over n_steps
    runs, whose inputs lie at k / n_steps of the way from the corrupted to the clean ones, k from 1
    to n_steps (the path of integrated gradients, Sundararajan et al. 2017). Gemma 4 has two inputs,
    and both go that way: the embeddings and the token part of the per-layer embeddings.

    Senders are what is added to the stream, times the layer scalars between the two: "embed",
    "{i}_attn_out", "{i}_mlp_out" (experts included), "{i}_ple_out"; and beside the stream
    "ple_inputs". Receivers are branches as they read the stream: "{i}_attn_in", "{i}_mlp_in",
    "{i}_ple_in", and "logits", the final stream. What sharing layers do with a donor's keys and
    values counts as the donor's "attn_in"; heads of one layer are one component, since the norm
    behind them joins them.

    Args:
        model: The Bridge. Its hooks apply.
        tokens: The corrupted run: token ids [batch pos], or text.
        clean: The clean run: its ids or text, or its cache with hook_full_embed, ple.hook_token,
            blocks.*.ple.hook_input, and hook_attn_out, hook_mlp_out, hook_ple_out of all blocks.
        metric: Of logits [batch pos d_vocab]; a number with a gradient.
        n_steps: 0 takes the gradient at the corrupted run instead (plain edge attribution,
            Syed et al. 2023).
        **arguments: Of all runs: attention_mask, position_ids ….

    Returns:
        Scores [sender receiver], summed over batch and positions; NaN where no edge is.

    Raises:
        ArgumentError: The runs' shapes differ, or the metric has no gradient.

    Example:
        >>> edges = edge_attribution(
        ...     b, "Of 7 and 4 , the larger is", "Of 7 and 22 , the larger is",
        ...     lambda logits: logits[0, -1, 9], n_steps=2)
        >>> type(edges["3_mlp_out", "5_attn_in"])
        <class 'float'>
    """
    if n_steps < 0:
        raise ArgumentError(f"n_steps is {n_steps}; wanted 0 or more")
    senders, receivers = senders_of(model), receivers_of(model)
    inputs = [name for name in _INPUTS if name == _INPUTS[0] or model.cfg.d_ple]
    names = [*inputs[1:], *(name for sender in senders for name in sender.names)]
    clean_values = values_of(model, clean, names, **arguments)
    corrupted = values_of(model, tokens, names, **arguments)
    changes = {name: difference_of(name, clean_values[name], corrupted[name]) for name in names}
    steps = [k / n_steps for k in range(1, n_steps + 1)] or [0.0]
    slopes: dict[str, torch.Tensor] = {}
    at = sorted(
        {receiver.name for receiver in receivers} | {i for r in receivers for i in r.beside}
    )
    for step in steps:
        hooks = [(name, _moved(step * changes[name])) for name in inputs] if step else []
        found = gradients(model, tokens, metric, at, fwd_hooks=hooks, **arguments)
        for name in at:
            slopes[name] = slopes.get(name, 0) + found[f"{name}_grad"] / len(steps)
    scores = torch.full((len(senders), len(receivers)), float("nan"), dtype=torch.float64)
    for i, sender in enumerate(senders):
        for j, receiver in enumerate(receivers):
            if (score := _score(model, sender, receiver, changes, slopes)) is not None:
                scores[i, j] = score.cpu()
    return EdgeScores(scores, [s.label for s in senders], [r.label for r in receivers])


def _score(
    model: Bridge,
    sender: Sender,
    receiver: Receiver,
    changes: dict[str, torch.Tensor],
    slopes: dict[str, torch.Tensor],
) -> torch.Tensor | None:
    beside = [name for name in sender.names if name in receiver.beside]
    if beside:
        return (changes[beside[0]] * slopes[beside[0]]).sum().double()
    scale = share(model, sender, receiver)
    if scale is None:
        return None
    slope = slopes[receiver.name]
    if receiver.matrix is not None:
        slope = slope @ receiver.matrix
    return (changes[sender.names[0]] * slope).sum().double() * scale


def _moved(by: torch.Tensor) -> Callable[..., torch.Tensor]:
    return lambda value, hook: value + by
