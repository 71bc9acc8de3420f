"""The values of one run of the transformers model, by name.

What the reference never makes (a branch's copy of the stream, one head's result, one expert's
output) is computed here from the reference's own inputs and weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bezel.reference.recorder import Recorder, Values


@torch.no_grad()
def capture(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: Any = None,
    position_ids: torch.Tensor | None = None,
    **forward_arguments: Any,
) -> Values:
    """Runs the model and returns its values by name.

    Args:
        model: A Gemma 4 causal, conditional-generation or unified model; "eager" attention for
            scores and patterns, which other implementations do not make.
        input_ids: [batch pos].
        attention_mask: [batch pos], or a dict of additive masks [batch 1 q_pos k_pos] by type.
        position_ids: [batch pos]. With a mask and left padding, pass `positions_from(mask)`: the
            reference would count the padding.
        **forward_arguments: For the model.

    Returns:
        Every name of the model, the on-demand ones too.
    """
    recorder = Recorder(model, *input_ids.shape)
    return record(recorder, input_ids, attention_mask, position_ids, **forward_arguments)


def record(
    recorder: Recorder,
    input_ids: torch.Tensor,
    attention_mask: Any = None,
    position_ids: torch.Tensor | None = None,
    **forward_arguments: Any,
) -> Values:
    """`capture` with a recorder of the caller's."""
    with recorder.attached():
        output: Any = recorder.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
            **forward_arguments,
        )
    values = recorder.values
    values["hook_tokens"] = input_ids.clone()
    values["hook_logits"] = output.logits
    layers = recorder.text.layers
    for i, layer in enumerate(layers):
        complete_layer(values, i, layer)
    if "ple.hook_token" in values:
        slices = [values[f"blocks.{i}.ple.hook_input"] for i in range(len(layers))]
        values["ple.hook_inputs"] = torch.stack(slices, dim=2)
    return values


def complete_layer(values: Values, i: int, layer: Any) -> None:
    """Adds what the reference never makes: branch inputs, per-head results, single experts."""
    at, attention = f"blocks.{i}.", layer.self_attn
    stream = values[at + "hook_resid_pre"]
    values[at + "hook_attn_in"] = stream
    values[at + "hook_mlp_in"] = values[at + "hook_resid_mid"]
    z = values[at + "attn.hook_z"]
    n_heads, d_head = z.shape[-2:]
    values[at + "hook_q_input"] = stream[:, :, None].repeat(1, 1, n_heads, 1)
    if not attention.is_kv_shared_layer:
        copies = stream[:, :, None].repeat(1, 1, values[at + "attn.hook_k"].shape[2], 1)
        values[at + "hook_k_input"] = copies
        values[at + "hook_v_input"] = copies
    w_o = attention.o_proj.weight
    values[at + "attn.hook_result"] = torch.stack(
        [z[:, :, h] @ w_o[:, h * d_head : (h + 1) * d_head].T for h in range(n_heads)], dim=2
    )
    if hasattr(layer, "router"):
        _add_experts(values, at, layer.experts)


def _add_experts(values: Values, at: str, experts: Any) -> None:
    """One expert at a time, on the tokens that chose it: gate rows first, up rows after them."""
    x = values.pop(at + "experts_input")
    indices = values[at + "moe.hook_expert_indices"]
    weights = values[at + "moe.hook_expert_weights"]
    width = experts.intermediate_dim
    pre, linear, post = (x.new_empty(*indices.shape, width) for _ in range(3))
    out = x.new_empty(*indices.shape, x.shape[-1])
    for expert in torch.unique(indices).tolist():
        b, s, slot = here = torch.where(indices == expert)
        pre[here] = x[b, s] @ experts.gate_up_proj[expert, :width].T
        linear[here] = x[b, s] @ experts.gate_up_proj[expert, width:].T
        post[here] = experts.act_fn(pre[here]) * linear[here]
        out[here] = (post[here] @ experts.down_proj[expert].T) * weights[b, s, slot, None].to(
            x.dtype
        )
    values[at + "moe.hook_expert_pre"] = pre
    values[at + "moe.hook_expert_pre_linear"] = linear
    values[at + "moe.hook_expert_post"] = post
    values[at + "moe.hook_expert_out"] = out


def positions_from(attention_mask: torch.Tensor) -> torch.Tensor:
    """Positions [batch pos] that count the valid tokens before each one."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)
