"""The reference's values and gradients for tests: bezel.reference, and float64 beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bezel.reference import recorder, values
from bezel.reference.recorder import Values
from bezel.reference.values import positions_from
from support.exact import exact_attention

__all__ = ["Recorder", "Values", "capture", "capture_gradients", "positions_from"]


class Recorder(recorder.Recorder):
    """Takes the values of the float64 oracle of support.exact too."""

    def attention(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        def exact_where_wide(
            module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any
        ) -> Any:
            if query.dtype == torch.float64:
                return exact_attention(query, key, value, mask)
            return compute(module, query, key, value, mask, **kwargs)

        return super().attention(exact_where_wide)


@torch.no_grad()
def capture(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: Any = None,
    position_ids: torch.Tensor | None = None,
    embeddings: torch.Tensor | None = None,
    **forward_arguments: Any,
) -> Values:
    """As bezel.reference.values.capture, of float64 oracles too.

    embeddings: [batch pos d_model], in place of those of the ids.
    """
    recorder = Recorder(model, *input_ids.shape)
    if embeddings is not None:
        embed = recorder.text.embed_tokens
        recorder.handles.append(embed.register_forward_hook(lambda *_: embeddings))
    return values.record(recorder, input_ids, attention_mask, position_ids, **forward_arguments)


class GradientRecorder(Recorder):
    """Keeps the very tensors that the model goes on with, so that backward() reaches them."""

    def __init__(self, model: nn.Module, batch: int, length: int) -> None:
        super().__init__(model, batch, length)
        self.tensors: Values = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def put(self, name: str, value: torch.Tensor, *tail: int) -> None:
        if value.requires_grad:
            value.retain_grad()
            self.tensors[name] = value
            self.shapes[name] = (*self.leading, *tail) if tail else value.shape

    def see_attention(self, module: Any, query: Any, key: Any, value: Any, mask: Any) -> None:
        at = f"blocks.{self.layer_of[id(module)]}.attn."
        self.put(at + "hook_rot_q", query)
        if not module.is_kv_shared_layer:
            self.put(at + "hook_rot_k", key)

    def gradients(self) -> Values:
        """dL/d(value) after backward(), for the values that it reached."""
        values = {}
        for name, tensor in self.tensors.items():
            if tensor.grad is not None:
                by_head = name.endswith(("rot_q", "rot_k"))  # [batch head pos d_head] so far
                gradient = tensor.grad.transpose(1, 2) if by_head else tensor.grad
                values[name] = gradient if by_head else gradient.reshape(self.shapes[name])
        return values


def capture_gradients(model: nn.Module, input_ids: torch.Tensor) -> Values:
    """dL/d(value) of the mean loss, where the reference makes the value and uses it as we do.

    It uses one tensor for two names where keys are values, at the first block (stream and context
    of the per-layer embeddings) and where keys are shared: such gradients are sums, left out here.
    """
    recorder = GradientRecorder(model, *input_ids.shape)
    with recorder.attached():
        output: Any = model(input_ids=input_ids, labels=input_ids, use_cache=False)
        recorder.put("hook_logits", output.logits)
        output.loss.backward()
    model.zero_grad()
    values = recorder.gradients()
    if hasattr(recorder.text, "embed_tokens_per_layer"):
        del values["blocks.0.hook_resid_pre"]
    for i, layer in enumerate(recorder.text.layers):
        attention = layer.self_attn
        if not attention.is_kv_shared_layer and attention.v_proj is None:
            del values[f"blocks.{i}.attn.hook_v"]
        values.pop(f"blocks.{i}.experts_input", None)
    return values
