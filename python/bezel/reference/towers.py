"""Every hook point of the towers and projectors, taken from transformers beside those of the text.

A call with images and videos runs transformers' vision tower twice; bezel runs it once, on the
images and then the frames of each video. The values of both runs are joined in that way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from bezel.reference.audio_attention import audio_attention
from bezel.reference.recorder import Recorder, Values

_VISION = ("vision_encoder.", "vision_embedder.")
_TOWERS = (*_VISION, "vision_projector.", "audio_encoder.", "audio_projector.")
_SOFT = ("vision_encoder.hook_pooled", "vision_encoder.hook_out")  # not by image and patch
_BY_TWO_PATCHES = ("attn.hook_attn_scores", "attn.hook_pattern")


class MediaRecorder(Recorder):
    """A recorder of one run with media; `tower_values` gives what is not the text model's."""

    def __init__(self, model: nn.Module, batch: int, length: int) -> None:
        """A recorder of one run on ids [batch length]."""
        super().__init__(model, batch, length)
        self.runs: dict[str, list[torch.Tensor]] = {}
        self.vision_block_of: dict[int, str] = {}
        self.is_patch: torch.Tensor | None = None  # [image patch], where there is no encoder

    def put(self, name: str, value: torch.Tensor, *tail: int) -> None:
        """Stores a copy; of a tower's values, the last axis is split into the tail."""
        if not name.startswith(_TOWERS):
            super().put(name, value, *tail)
            return
        if name.startswith("vision_projector.") and self.is_patch is not None:
            value = value[self.is_patch]
        if tail:
            value = value.reshape(*value.shape[:-1], *tail)
        self.runs.setdefault(name, []).append(value.detach().clone())

    def tower_values(self) -> Values:
        """By name; the vision tower's runs joined."""
        return {name: joined(name, runs) for name, runs in self.runs.items()}

    def watch_model(self) -> None:
        """Watches the text model, the towers and the projectors."""
        super().watch_model()
        self.watch_encoders()

    def watch_encoders(self) -> None:
        """Watches the towers and the projectors."""
        inner = self.model.model
        for name in ("vision", "audio"):
            if getattr(inner, f"embed_{name}", None) is None:
                continue
            embedder = getattr(inner, f"embed_{name}")
            tower = getattr(inner, f"{name}_tower", None)
            if tower is not None:
                getattr(self, f"watch_{name}_tower")(tower)
            elif name == "vision":
                self.watch_vision_embedder(embedder)
                embedder = embedder.multimodal_embedder
            self.watch_projector(f"{name}_projector.", embedder)

    def watch_projector(self, at: str, embedder: Any) -> None:
        """Watches what brings a tower's output to the width of the text."""
        norm, linear = embedder.embedding_pre_projection_norm, embedder.embedding_projection
        self.input(norm, at + "hook_in")
        self.norm(norm, at.removesuffix("."))
        self.output(linear, at + "hook_out")

    def watch_vision_embedder(self, embedder: Any) -> None:
        """Watches the embedder of a model without a vision encoder."""

        def see_positions(args: tuple[Any, ...]) -> None:
            positions = args[1]
            is_given = positions != -1
            self.is_patch = is_given.all(dim=-1)
            table, axes = embedder.pos_embedding, torch.arange(2, device=positions.device)
            rows = table[positions.clamp(min=0).long(), axes] * is_given[..., None].to(table.dtype)
            self.put("vision_embedder.hook_pos_embed", rows.sum(-2))

        self.handles.append(embedder.register_forward_pre_hook(lambda _, args: see_positions(args)))
        self.input(embedder.patch_ln1, "vision_embedder.hook_patches")
        self.output(embedder.patch_ln1, "vision_embedder.hook_ln1")
        self.output(embedder.patch_dense, "vision_embedder.hook_dense")
        self.output(embedder.patch_ln2, "vision_embedder.hook_ln2")
        self.output(embedder.pos_norm, "vision_embedder.hook_out")

    def watch_vision_tower(self, tower: Any) -> None:
        """Watches the vision encoder."""
        at, patches = "vision_encoder.", tower.patch_embedder
        self.input(patches.input_proj, at + "hook_patches")
        self.output(patches.input_proj, at + "hook_embed")

        def see_positions(args: tuple[Any, ...], out: Any) -> None:
            self.put(at + "hook_pos_embed", patches._position_embeddings(*args[1:]))

        self.on_call(patches, see_positions)
        for i, layer in enumerate(tower.encoder.layers):
            self.watch_vision_block(f"{at}blocks.{i}.", layer)
        self.on_call(tower.pooler, lambda _, out: self.put(at + "hook_pooled", out[0][out[1]]))
        self.on_call(tower, lambda _, out: self.put(at + "hook_out", out.last_hidden_state))

    def watch_vision_block(self, at: str, layer: Any) -> None:
        """Watches one block of the vision encoder."""
        attention, mlp = layer.self_attn, layer.mlp
        self.vision_block_of[id(attention)] = at
        self.input(layer, at + "hook_resid_pre")
        self.norm(layer.input_layernorm, at + "ln1")
        for x in "qkv":
            projected = (f"{at}attn.hook_{x}", -1, attention.head_dim)
            self.output(getattr(attention, f"{x}_proj"), *projected)
            self.output(getattr(attention, f"{x}_norm"), f"{at}attn.hook_{x}_normed")
        self.output(attention.o_proj, at + "attn.hook_out")
        self.norm(layer.post_attention_layernorm, at + "ln1_post")
        self.output(layer.post_attention_layernorm, at + "hook_attn_out")
        self.input(layer.pre_feedforward_layernorm, at + "hook_resid_mid")
        self.norm(layer.pre_feedforward_layernorm, at + "ln2")
        self.output(mlp.gate_proj, at + "mlp.hook_pre")
        self.output(mlp.up_proj, at + "mlp.hook_pre_linear")
        self.input(mlp.down_proj, at + "mlp.hook_post")
        self.output(mlp.down_proj, at + "mlp.hook_out")
        self.norm(layer.post_feedforward_layernorm, at + "ln2_post")
        self.output(layer.post_feedforward_layernorm, at + "hook_mlp_out")
        self.output(layer, at + "hook_resid_post")

    def attention(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """The attention function `compute`, watched in the text model and the vision encoder."""
        of_text = super().attention(compute)

        def watched(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
            at = self.vision_block_of.get(id(module))
            if at is None:
                return of_text(module, query, key, value, mask, **kwargs)
            self.put(at + "attn.hook_rot_q", query.transpose(1, 2))
            self.put(at + "attn.hook_rot_k", key.transpose(1, 2))
            keys = key.repeat_interleave(module.num_key_value_groups, dim=1)
            scores = torch.matmul(query, keys.transpose(2, 3)) * module.scaling
            self.put(at + "attn.hook_attn_scores", scores if mask is None else scores + mask)
            z, pattern = of_text(module, query, key, value, mask, **kwargs)
            self.put(at + "attn.hook_pattern", pattern)
            self.put(at + "attn.hook_z", z)
            return z, pattern

        return watched

    def watch_audio_tower(self, tower: Any) -> None:
        """Watches the audio encoder."""
        at, subsample = "audio_encoder.", tower.subsample_conv_projection
        self.watch_features(subsample, at + "hook_features")
        for i, layer in enumerate((subsample.layer0, subsample.layer1)):
            self.watch_subsampling(f"{at}subsample.{i}.hook_out", layer)
        self.output(subsample.input_proj_linear, at + "hook_embed")
        for i, layer in enumerate(tower.layers):
            self.watch_audio_block(f"{at}blocks.{i}.", layer)
        self.output(tower.output_proj, at + "hook_out")

    def watch_features(self, subsample: Any, name: str) -> None:
        """Watches what enters, in the dtype in which the first convolution takes it."""
        dtype = subsample.layer0.conv.weight.dtype
        self.on_call(subsample, lambda args, _: self.put(name, args[0].to(dtype)))

    def watch_subsampling(self, name: str, layer: Any) -> None:
        """Watches one convolution, whose channels stand before its frames."""
        self.on_call(layer, lambda _, out: self.put(name, out[0].movedim(1, -1)))

    def watch_audio_block(self, at: str, layer: Any) -> None:
        """Watches one conformer block."""
        self.input(layer, at + "hook_resid_pre")
        self.watch_feed_forward(at + "ff1.", layer.feed_forward1)
        self.watch_audio_attention(at + "attn.", layer.self_attn)
        self.output(layer.norm_post_attn, at + "hook_attn_out")
        conv = layer.lconv1d
        self.output(conv.linear_start, at + "conv.hook_pre")

        def see_convolution(args: tuple[Any, ...], out: torch.Tensor) -> None:
            self.put(at + "conv.hook_glu", args[0].transpose(1, 2))
            self.put(at + "conv.hook_conv", out.transpose(1, 2))

        self.on_call(conv.depthwise_conv1d, see_convolution)
        self.output(conv.linear_end, at + "conv.hook_out")
        self.watch_feed_forward(at + "ff2.", layer.feed_forward2)
        self.output(layer, at + "hook_resid_post")

    def watch_feed_forward(self, at: str, module: Any) -> None:
        """Watches one half of a conformer block's feed-forward pair."""
        self.output(module.ffw_layer_1, at + "hook_pre")
        self.input(module.ffw_layer_2, at + "hook_post")

        def see(args: tuple[Any, ...], out: torch.Tensor) -> None:
            self.put(at + "hook_out", out * module.post_layer_scale)

        self.on_call(module.post_layer_norm, see)

    def watch_audio_attention(self, at: str, module: Any) -> None:
        """Watches one attention over chunks; its inside is computed again, and compared."""
        heads = (module.num_heads, module.head_dim)
        for x in "qkv":
            self.output(getattr(module, f"{x}_proj"), f"{at}hook_{x}", *heads)
        self.input(module.post, at + "hook_z", *heads)

        def see(_: Any, args: Any, given: dict[str, Any], out: Any) -> None:
            q, k, v, z = (self.runs[f"{at}hook_{x}"][-1] for x in "qkvz")
            found = audio_attention(
                module, (q, k, v), given["position_embeddings"], given["attention_mask"]
            )
            if not (_agree(found.pattern, out[1]) and _agree(found.z.to(z.dtype), z)):
                raise AssertionError(f"{at}: the recomputed inside is not transformers' own")
            self.put(at + "hook_attn_scores", found.scores)
            self.put(at + "hook_pattern", out[1])

        self.handles.append(module.register_forward_hook(see, with_kwargs=True))


def _agree(found: torch.Tensor, given: torch.Tensor) -> bool:
    """To rounding: on a CPU the bits are the same."""
    close = 8 * torch.finfo(given.dtype).eps
    return torch.allclose(found, given, rtol=close, atol=1e-6)


def joined(name: str, runs: list[torch.Tensor]) -> torch.Tensor:
    """One value of the vision tower's runs on images and on frames, or of one run.

    Images come first, then frames; the smaller patch count is filled up.
    """
    if name.startswith(_VISION) and name not in _SOFT:
        n_patches = max(run.shape[-2] if name.endswith(_BY_TWO_PATCHES) else run.shape[1]
                        for run in runs)  # fmt: skip
        runs = [_filled_up(name, run, n_patches) for run in runs]
    return torch.cat(runs)


def _filled_up(name: str, run: torch.Tensor, n_patches: int) -> torch.Tensor:
    if name.endswith(_BY_TWO_PATCHES):
        gap = n_patches - run.shape[-1]
        fill = torch.finfo(run.dtype).min if name.endswith("scores") else 0.0
        return F.pad(run, (0, gap, 0, gap), value=fill)
    behind = (0, 0) * (run.ndim - 2)
    return F.pad(run, (*behind, 0, n_patches - run.shape[1]))
