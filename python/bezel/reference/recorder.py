"""Every text hook point, taken from the transformers model under bezel's names and axes.

Nothing here computes the model: values are taken where the reference makes them (module inputs
and outputs, and the tensors that its attention function is called with).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

Values = dict[str, torch.Tensor]


def text_model_of(model: nn.Module) -> Any:
    """The decoder stack inside a causal or a multimodal model."""
    inner: Any = model.model
    return getattr(inner, "language_model", inner)


class Recorder:
    """Hooks on one model for the length of one run; `values` fills as the model computes."""

    def __init__(self, model: nn.Module, batch: int, length: int) -> None:
        """A recorder of one run on ids [batch length]."""
        self.model: Any = model
        self.text = text_model_of(model)
        self.values: Values = {}
        self.leading = (batch, length)
        self.handles: list[Any] = []
        self.modeling: Any = sys.modules[type(self.text).__module__]
        self.layer_of: dict[int, int] = {}

    def put(self, name: str, value: torch.Tensor, *tail: int) -> None:
        """Stores a copy as [batch pos *tail]; without a tail the value has its axes already."""
        if tail:
            value = value.reshape(*self.leading, *tail)
        self.values[name] = value.detach().clone()

    def on_call(self, module: nn.Module, see: Callable[[tuple[Any, ...], Any], None]) -> None:
        """Calls see(inputs, output) after each call of the module."""
        handle = module.register_forward_hook(lambda _, args, out: see(args, out))
        self.handles.append(handle)

    def output(self, module: nn.Module, name: str, *tail: int) -> None:
        """Takes the module's output."""
        self.on_call(module, lambda args, out: self.put(name, out, *tail))

    def input(self, module: nn.Module, name: str, *tail: int) -> None:
        """Takes the module's first input."""
        self.on_call(module, lambda args, out: self.put(name, args[0], *tail))

    def norm(self, module: Any, name: str) -> None:
        """Takes scale, the root-mean-square of the input (float32 at least), and x / scale."""

        def see(args: tuple[Any, ...], out: Any) -> None:
            x = args[0].to(torch.promote_types(args[0].dtype, torch.float32))
            scale = torch.sqrt(x.pow(2).mean(-1, keepdim=True) + module.eps)
            self.put(f"{name}.hook_scale", scale, 1)
            self.put(f"{name}.hook_normalized", x / scale, x.shape[-1])

        self.on_call(module, see)

    def see_attention(self, module: Any, query: Any, key: Any, value: Any, mask: Any) -> None:
        """Takes query, key, value after norms and RoPE, [batch head|kv_head pos d_head]."""
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
            out, pattern = compute(module, query, key, value, mask, **kwargs)
            at = f"blocks.{self.layer_of[id(module)]}.attn."
            self.put(at + "hook_z", out)
            if pattern is not None:
                self.put(at + "hook_pattern", pattern)
            return out, pattern

        return watched

    def watch_model(self) -> None:
        """Watches every part of the model."""
        self.watch_embeddings()
        for i, layer in enumerate(self.text.layers):
            self.watch_layer(i, layer)
        self.watch_end()

    def watch_embeddings(self) -> None:
        """Watches what stands before the blocks."""
        text = self.text
        self.output(text.embed_tokens, "hook_embed", text.config.hidden_size)
        if hasattr(text, "embed_tokens_per_layer"):
            axes = (len(text.layers), text.config.hidden_size_per_layer_input)
            self.output(text.embed_tokens_per_layer, "ple.hook_token", *axes)
            self.output(text.per_layer_projection_norm, "ple.hook_context", *axes)

    def watch_end(self) -> None:
        """Watches what stands behind the blocks."""
        self.norm(self.text.norm, "ln_final")
        self.output(self.model.lm_head, "hook_unembed", self.text.config.vocab_size)

    def watch_layer(self, i: int, layer: Any) -> None:
        """Watches block i."""
        at, d_model = f"blocks.{i}.", self.text.config.hidden_size
        self.layer_of[id(layer.self_attn)] = i
        if i == 0:
            self.input(layer, "hook_full_embed", d_model)
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
        """Watches projections and norms of queries, keys and values."""
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
        """Watches the router, and the experts as a whole."""
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
        """Watches the branch of the per-layer embeddings."""
        d_ple = layer.per_layer_input_gate.out_features
        self.on_call(layer, lambda args, out: self.put(at + "ple.hook_input", args[1], d_ple))
        self.output(layer.per_layer_input_gate, at + "ple.hook_gate", d_ple)
        self.input(layer.per_layer_projection, at + "ple.hook_post", d_ple)
        self.norm(layer.post_per_layer_input_norm, at + "ple_post")
        self.output(layer.post_per_layer_input_norm, at + "hook_ple_out", d_model)

    @contextlib.contextmanager
    def attached(self, *parts: Callable[[], None]) -> Iterator[None]:
        """Hooks on the modules, and a wrapped attention function, for the length of the block.

        Args:
            parts: Which of the watch_… to call; none: `watch_model`.
        """
        registry = self.modeling.ALL_ATTENTION_FUNCTIONS

        class Watching:
            @staticmethod
            def get_interface(name: str, default: Callable[..., Any]) -> Callable[..., Any]:
                return self.attention(registry.get_interface(name, default))

        try:
            self.modeling.ALL_ATTENTION_FUNCTIONS = Watching
            for watch in parts or (self.watch_model,):
                watch()
            yield
        finally:
            self.modeling.ALL_ATTENTION_FUNCTIONS = registry
            for handle in self.handles:
                handle.remove()
            self.handles.clear()
