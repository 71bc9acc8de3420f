"""Gradients inside the reference's towers, where it makes a value and uses it as bezel does."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from bezel.reference.media import reference_arguments
from bezel.reference.towers import joined
from support import exact_towers
from support.reference import Values

# Pixels or features as they enter, by the kind of model.
ENTRANCES = (
    "vision_encoder.hook_patches", "audio_encoder.hook_features",
    "vision_embedder.hook_patches", "audio_projector.hook_in",
)  # fmt: skip


def labels_of(tokens: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The tokens; -100 where a token or the one before it is padding."""
    labels = tokens.clone()
    labels[:, 1:][~(valid[:, 1:] & valid[:, :-1])] = -100
    return labels


class GradientRecorder(exact_towers.Recorder):
    """Keeps the very tensors that the model goes on with, so that backward() reaches them.

    Values that the recorder makes itself (scales, scores, turned axes) are not on the way.
    """

    def __init__(self, model: nn.Module, batch: int, length: int) -> None:
        super().__init__(model, batch, length)
        self.kept: dict[str, list[tuple[torch.Tensor, Callable[[Any], torch.Tensor]]]] = {}

    def put(self, name: str, value: torch.Tensor, *tail: int) -> None:
        super().put(name, value, *tail)
        if name in self.runs and value.requires_grad:
            value.retain_grad()
            only = self.is_patch if name.startswith("vision_projector.") else None
            self.kept.setdefault(name, []).append((value, functools.partial(_shaped, only, tail)))

    def gradients(self) -> Values:
        """dL/d(value) of the towers after backward(), for the values that it reached."""
        return {
            name: joined(name, [shaped(value.grad) for value, shaped in runs])
            for name, runs in self.kept.items()
            if all(value.grad is not None for value, _ in runs)
        }


def _shaped(only: torch.Tensor | None, tail: tuple[int, ...], gradient: Any) -> torch.Tensor:
    """As the recorder shapes the value."""
    kept: torch.Tensor = gradient if only is None else gradient[only]
    return kept.reshape(*kept.shape[:-1], *tail) if tail else kept


Objective = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def mean_loss(logits: torch.Tensor, tokens: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Of the next tokens; the model's own loss passes through float32."""
    labels = labels_of(tokens, valid)[:, 1:]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten())


def last_logits(logits: torch.Tensor, tokens: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """One logit behind the last token of each row, summed."""
    return logits[:, -1, 7].sum()


def capture_media_gradients(
    model: Any, inputs: Mapping[str, torch.Tensor], objective: Objective = mean_loss
) -> Values:
    """d(objective)/d(value) at names of towers and projectors, float64 oracles too."""
    dtype = next(model.parameters()).dtype
    given = {
        key: value.to(dtype, copy=True).requires_grad_() if value.is_floating_point() else value
        for key, value in inputs.items()
    }
    tokens = given["input_ids"]
    valid = given.get("attention_mask", torch.ones_like(tokens)).bool()
    arguments = reference_arguments(model, given)
    recorder = GradientRecorder(model, *tokens.shape)
    with recorder.attached():
        objective(model(**arguments, use_cache=False).logits, tokens, valid).backward()
    model.zero_grad()
    return recorder.gradients()
