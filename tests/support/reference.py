"""Every text hook point, captured from the transformers model under bezel's names and axes.

Nothing here computes the model: values are taken where the reference makes them (module inputs
and outputs, and the tensors that its attention function is called with), and only what it never
makes (per-head results, one expert's output, a norm's scale) is computed from its own inputs.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from support.exact import exact_attention, text_model_of

Values = dict[str, torch.Tensor]


class Recorder:
    """Hooks on one model for the length of one run; `values` fills as the model computes."""

    def __init__(self, model: nn.Module, batch: int, length: int) -> None:
        self.model: Any = model
        self.text = text_model_of(model)
        self.values: Values = {}
        self.leading = (batch, length)
        self.expert_inputs: dict[int, torch.Tensor] = {}
        self.handles: list[Any] = []
        self.modeling = sys.modules[type(self.text).__module__]
        self.layer_of = {id(layer.self_attn): i for i, layer in enumerate(self.text.layers)}

    def put(self, name: str, value: torch.Tensor, *tail: int) -> None:
        """Stores a copy as [batch pos *tail]; without a tail the value has its axes already."""
        if tail:
            value = value.reshape(*self.leading, *tail)
        self.values[name] = value.detach().clone()

    def on_call(self, module: nn.Module, see: Callable[[tuple[Any, ...], Any], None]) -> None:
        handle = module.register_forward_hook(lambda _, args, out: see(args, out))
        self.handles.append(handle)

    def output(self, module: nn.Module, name: str, *tail: int) -> None:
        self.on_call(module, lambda args, out: self.put(name, out, *tail))

    def input(self, module: nn.Module, name: str, *tail: int) -> None:
        self.on_call(module, lambda args, out: self.put(name, args[0], *tail))

    def norm(self, module: Any, name: str) -> None:
        """scale = root-mean-square of the norm's input, at least float32; normalized = x/scale."""

        def see(args: tuple[Any, ...], out: Any) -> None:
            x = args[0].to(torch.promote_types(args[0].dtype, torch.float32))
            scale = torch.sqrt(x.pow(2).mean(-1, keepdim=True) + module.eps)
            self.put(f"{name}.hook_scale", scale, 1)
            self.put(f"{name}.hook_normalized", x / scale, x.shape[-1])

        self.on_call(module, see)

    def see_attention(self, module: Any, query: Any, key: Any, value: Any, mask: Any) -> None:
        """query, key, value: after norms and RoPE, [batch head|kv_head pos d_head]."""
        at = f"blocks.{self.layer_of[id(module)]}.attn."
        self.put(at + "hook_rot_q", query.transpose(1, 2))
        if module.is_kv_shared_layer:
            self.put(at + "hook_shared_k", key.transpose(1, 2))
            self.put(at + "hook_shared_v", value.transpose(1, 2))
        else:
            self.put(at + "hook_rot_k", key.transpose(1, 2))
        keys = key.repeat_interleave(module.num_key_value_groups, dim=1)
        scores = torch.matmul(query, keys.transpose(2, 3)) * module.scaling
        if mask is not None and mask.dtype != torch.bool:
            self.put(at + "hook_attn_scores", scores + mask)

    def attention(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """The attention function `compute` with a look at its arguments and its pattern."""

        def watched(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
            if id(module) not in self.layer_of:
                return compute(module, query, key, value, mask, **kwargs)
            self.see_attention(module, query, key, value, mask)
            if query.dtype == torch.float64:
                out, pattern = exact_attention(query, key, value, mask)
            else:
                out, pattern = compute(module, query, key, value, mask, **kwargs)
            at = f"blocks.{self.layer_of[id(module)]}.attn."
            self.put(at + "hook_z", out)
            if pattern is not None:
                self.put(at + "hook_pattern", pattern)
            return out, pattern

        return watched

    def watch_model(self) -> None:
        text = self.text
        d_model = text.config.hidden_size
        self.output(text.embed_tokens, "hook_embed", d_model)
        self.input(text.layers[0], "hook_full_embed", d_model)
        self.norm(text.norm, "ln_final")
        self.output(self.model.lm_head, "hook_unembed", text.config.vocab_size)
        if hasattr(text, "embed_tokens_per_layer"):
            axes = (len(text.layers), text.config.hidden_size_per_layer_input)
            self.output(text.embed_tokens_per_layer, "ple.hook_token", *axes)
            self.output(text.per_layer_projection_norm, "ple.hook_context", *axes)
        for i, layer in enumerate(text.layers):
            self.watch_layer(f"blocks.{i}.", layer, d_model)

    def watch_layer(self, at: str, layer: Any, d_model: int) -> None:
        self.input(layer, at + "hook_resid_pre", d_model)
        self.output(layer, at + "hook_resid_post", d_model)
        self.norm(layer.input_layernorm, at + "ln1")
        self.watch_heads(at + "attn.", layer.self_attn)
        self.output(layer.self_attn.o_proj, at + "attn.hook_out", d_model)
        self.norm(layer.post_attention_layernorm, at + "ln1_post")
        self.output(layer.post_attention_layernorm, at + "hook_attn_out", d_model)
        self.input(layer.pre_feedforward_layernorm, at + "hook_resid_mid", d_model)
        self.norm(layer.pre_feedforward_layernorm, at + "ln2")
        d_mlp = layer.mlp.gate_proj.out_features
        self.output(layer.mlp.gate_proj, at + "mlp.hook_pre", d_mlp)
        self.output(layer.mlp.up_proj, at + "mlp.hook_pre_linear", d_mlp)
        self.input(layer.mlp.down_proj, at + "mlp.hook_post", d_mlp)
        self.output(layer.mlp.down_proj, at + "mlp.hook_out", d_model)
        if hasattr(layer, "router"):
            self.watch_experts(at, layer, d_model)
        self.norm(layer.post_feedforward_layernorm, at + "ln2_post")
        self.output(layer.post_feedforward_layernorm, at + "hook_mlp_out", d_model)
        if hasattr(layer, "per_layer_input_gate"):
            self.watch_per_layer_input(at, layer, d_model)

    def watch_heads(self, at: str, attention: Any) -> None:
        heads = (-1, attention.head_dim)
        self.output(attention.q_proj, at + "hook_q", *heads)
        self.output(attention.q_norm, at + "hook_q_normed", *heads)
        if not attention.is_kv_shared_layer:
            self.output(attention.k_proj, at + "hook_k", *heads)
            self.output(attention.k_norm, at + "hook_k_normed", *heads)
            # With K == V there is no v_proj: the value branch starts at the input of its norm.
            self.input(attention.v_norm, at + "hook_v", *heads)
            self.output(attention.v_norm, at + "hook_v_normed", *heads)

    def watch_experts(self, at: str, layer: Any, d_model: int) -> None:
        n_experts = layer.router.proj.out_features
        self.norm(layer.post_feedforward_layernorm_1, at + "ln2_dense_post")
        self.output(layer.router.proj, at + "moe.hook_router_logits", n_experts)

        def see_choice(args: tuple[Any, ...], out: Any) -> None:
            probs, weights, indices = out
            self.put(at + "moe.hook_router_probs", probs, n_experts)
            self.put(at + "moe.hook_expert_weights", weights, weights.shape[-1])
            self.put(at + "moe.hook_expert_indices", indices, indices.shape[-1])

        self.on_call(layer.router, see_choice)
        self.norm(layer.pre_feedforward_layernorm_2, at + "ln2_moe")
        self.input(layer.experts, at + "experts_input", d_model)
        self.output(layer.experts, at + "moe.hook_out", d_model)
        self.norm(layer.post_feedforward_layernorm_2, at + "ln2_moe_post")

    def watch_per_layer_input(self, at: str, layer: Any, d_model: int) -> None:
        d_ple = layer.per_layer_input_gate.out_features
        self.on_call(layer, lambda args, out: self.put(at + "ple.hook_input", args[1], d_ple))
        self.output(layer.per_layer_input_gate, at + "ple.hook_gate", d_ple)
        self.input(layer.per_layer_projection, at + "ple.hook_post", d_ple)
        self.norm(layer.post_per_layer_input_norm, at + "ple_post")
        self.output(layer.post_per_layer_input_norm, at + "hook_ple_out", d_model)

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks on the modules, and a wrapped attention function, for the length of the block."""
        registry = self.modeling.ALL_ATTENTION_FUNCTIONS

        class Watching:
            @staticmethod
            def get_interface(name: str, default: Callable[..., Any]) -> Callable[..., Any]:
                return self.attention(registry.get_interface(name, default))

        try:
            self.modeling.ALL_ATTENTION_FUNCTIONS = Watching
            self.watch_model()
            yield
        finally:
            self.modeling.ALL_ATTENTION_FUNCTIONS = registry
            for handle in self.handles:
                handle.remove()


def _add_experts(values: Values, at: str, experts: Any) -> None:
    """One expert at a time, one token at a time: gate rows first, up rows after them."""
    x = values.pop(at + "experts_input")
    indices = values[at + "moe.hook_expert_indices"]
    weights = values[at + "moe.hook_expert_weights"]
    batch, length, k = indices.shape
    width = experts.intermediate_dim
    pre, linear, post = (x.new_empty(batch, length, k, width) for _ in range(3))
    out = x.new_empty(batch, length, k, x.shape[-1])
    for b, s, slot in torch.cartesian_prod(*map(torch.arange, (batch, length, k))).tolist():
        expert = indices[b, s, slot]
        here = (b, s, slot)
        pre[here] = experts.gate_up_proj[expert, :width] @ x[b, s]
        linear[here] = experts.gate_up_proj[expert, width:] @ x[b, s]
        post[here] = experts.act_fn(pre[here]) * linear[here]
        out[here] = (experts.down_proj[expert] @ post[here]) * weights[here]
    values[at + "moe.hook_expert_pre"] = pre
    values[at + "moe.hook_expert_pre_linear"] = linear
    values[at + "moe.hook_expert_post"] = post
    values[at + "moe.hook_expert_out"] = out


def _add_layer(values: Values, at: str, layer: Any) -> None:
    """What the reference never makes: branch inputs, per-head results, single experts."""
    attention = layer.self_attn
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


@torch.no_grad()
def capture(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: Any = None,
    position_ids: torch.Tensor | None = None,
    embeddings: torch.Tensor | None = None,
    **forward_arguments: Any,
) -> Values:
    """Runs the model and returns its values by name.

    Args:
        model: a Gemma 4 causal, conditional-generation or unified model; "eager" attention for
            scores and patterns, which other implementations do not make.
        input_ids: [batch pos].
        attention_mask: [batch pos], or a dict of additive masks [batch 1 q_pos k_pos] by type.
        position_ids: [batch pos]. With a mask and left padding, pass `positions_from(mask)`: the
            reference would count the padding.
        embeddings: [batch pos d_model], in place of those of the ids.

    Returns:
        Every name of the model, the on-demand ones too.
    """
    recorder = Recorder(model, *input_ids.shape)
    if embeddings is not None:
        embed = recorder.text.embed_tokens
        recorder.handles.append(embed.register_forward_hook(lambda *_: embeddings))
    with recorder.attached():
        output: Any = model(
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
        _add_layer(values, f"blocks.{i}.", layer)
    if "ple.hook_token" in values:
        slices = [values[f"blocks.{i}.ple.hook_input"] for i in range(len(layers))]
        values["ple.hook_inputs"] = torch.stack(slices, dim=2)
    return values


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


def positions_from(attention_mask: torch.Tensor) -> torch.Tensor:
    """Positions [batch pos] that count the valid tokens before each one."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)
