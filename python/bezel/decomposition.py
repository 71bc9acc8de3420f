"""The residual stream: what it was at each place, and as the sum of what was added to it."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch

from bezel.attribution import Attribution
from bezel.cache_slice import Cut, SliceInput
from bezel.cache_values import CachedValues
from bezel.decomposition_checks import check_stream
from bezel.decomposition_inputs import Weights, layer_index, model_of, need, stream_name, wide
from bezel.errors import ArgumentError

Stack: TypeAlias = torch.Tensor | tuple[torch.Tensor, list[str]]
Mode: TypeAlias = Literal["all", "attn", "mlp", "ple"]
_ROWS = {"attn": "attn_out", "mlp": "mlp_out", "ple": "ple_out"}


class Part(NamedTuple):
    """Something added to the stream in block `layer`."""

    label: str
    name: str
    layer: int


def embed_name(cache: CachedValues) -> str:
    """What entered the stream first: with media features, where the run recorded them."""
    both = "hook_full_embed", "hook_embed"
    return both[1] if both[0] not in cache and both[1] in cache else both[0]


def parts_of(cache: CachedValues, layer: int, mlp_input: bool, mode: Mode) -> list[Part]:
    """What the blocks before (and for mlp_input the attention of) `layer` added."""
    if mode not in ("all", *_ROWS):
        raise ArgumentError(f'mode is {mode!r}; wanted "all", "attn", "mlp" or "ple"')
    kinds = [kind for kind in _ROWS if mode in ("all", kind)]
    if model_of(cache).cfg.d_ple == 0:
        kinds = [kind for kind in kinds if kind != "ple"]
    parts = []
    for i in range(layer + mlp_input):
        here = kinds if i < layer else [kind for kind in kinds if kind == "attn"]
        rows = [_ROWS[kind] for kind in here]
        parts += [Part(f"{i}_{row}", f"blocks.{i}.hook_{row}", i) for row in rows]
    return parts


class Decomposition(Attribution):
    """The stream of every block, its parts, and one name over all blocks."""

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: SliceInput = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Stack:
        """The stream as it enters each block up to `layer`: with apply_ln=True, the logit lens.

        Args:
            layer: The last block whose input is included; None and -1 are the end of the stream.
            incl_mid: The stream between attention and MLP of each block before, too.
            apply_ln: For the end, each stream through ln_final with its own root-mean-square, ready
                for the unembedding; for a block, through its norm at the recorded scale.
            pos_slice: Positions to keep; an index drops the axis.
            mlp_input: End with the MLP input of `layer`.
            return_labels: Also "0_pre", "0_mid" … "final_post".

        Returns:
            [stream batch pos d_model], at least float32; with return_labels also the labels.

        Raises:
            UnknownHookError: With the names_filter that would have recorded what is missing.

        Example:
            >>> streams, labels = cache.accumulated_resid(apply_ln=True, return_labels=True)
            >>> guesses = (streams[:, 0, -1] @ b.W_U).argmax(-1)  # of the next token
            >>> labels[-1], b.to_string(guesses[-1])
            ('final_post', 'Paris')
        """
        index = layer_index(self, layer, mlp_input)
        names, labels = [], []
        for i in range(min(index, self.n_layers - 1) + 1):
            names.append(stream_name(self, i) if i == index else f"blocks.{i}.hook_resid_pre")
            labels.append(f"{i}_pre")
            if (incl_mid and i < index) or (mlp_input and i == index):
                names.append(f"blocks.{i}.hook_resid_mid")
                labels.append(f"{i}_mid")
        if index == self.n_layers:
            names.append(stream_name(self, index))
            labels.append("final_post")
        need(self, names, "accumulated_resid")
        positions = Cut(pos_slice)
        stack = torch.stack([wide(positions.apply(self[name], -2)) for name in names])
        if apply_ln:
            at_the_end = index == self.n_layers
            stack = self.apply_ln_to_stack(
                stack, index, mlp_input, pos_slice, recompute_ln=at_the_end
            )
        return (stack, labels) if return_labels else stack

    def decompose_resid(  # noqa: PLR0913  TransformerLens's signature
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: Mode = "all",
        apply_ln: bool = False,
        pos_slice: SliceInput = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Stack:
        """The stream that enters a block as the sum of what was added to it.

        Gemma 4 multiplies the whole stream by a scalar at the end of each block; each part here has
        been multiplied by those of its own block and the later ones, so that the parts sum to the
        stream. Per-layer embeddings are parts of their own.

        Args:
            layer: The block that the stream enters; None and -1 are the end of the stream.
            mlp_input: Decompose the input of the block's MLP: its attention is a part too.
            mode: "all", or one kind alone: "attn", "mlp", "ple".
            apply_ln: See each part through the norm that it enters, at its recorded scale.
            pos_slice: Positions to keep; an index drops the axis.
            incl_embeds: Begin with the embedding.
            return_labels: Also "embed", "0_attn_out", "0_mlp_out", "0_ple_out" …

        Returns:
            [part batch pos d_model], at least float32; with return_labels also the labels.

        Raises:
            UnknownHookError: With the names_filter that would have recorded what is missing.
            DecompositionError: The parts do not sum to a recorded stream: a hook edited it.

        Example:
            >>> parts, labels = cache.decompose_resid(return_labels=True)
            >>> torch.allclose(parts.sum(0), cache["resid_post", -1], atol=1e-4)
            True
        """
        index = layer_index(self, layer, mlp_input)
        stack, labels = self._decomposed(index, mlp_input, mode, Cut(pos_slice), incl_embeds)
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, index, mlp_input, pos_slice)
        return (stack, labels) if return_labels else stack

    def stack_activation(
        self, activation_name: str, layer: int | None = -1, sublayer_type: str | None = None
    ) -> torch.Tensor:
        """One name of all blocks before `layer`.

        Args:
            activation_name: A short name: "z", "resid_pre", "scale" …
            layer: The first block that is left out; None and -1 leave none out.
            sublayer_type: For `get_act_name`, where the name alone does not say it: "ln1" …

        Returns:
            [layer …], the axes of the name behind.

        Raises:
            UnknownHookError: With the names_filter that would have recorded what is missing.
            ArgumentError: The shapes differ between blocks (d_head, d_mlp).

        Example:
            >>> cache.stack_activation("attn_out").shape  # [layer batch pos d_model]
            torch.Size([10, 1, 10, 96])
        """
        index = layer_index(self, layer)
        if index == 0:
            raise ArgumentError("stack_activation: there are no blocks before layer 0")
        names = [self._full_name((activation_name, i, sublayer_type)) for i in range(index)]
        need(self, names, "stack_activation")
        values = [self[name] for name in names]
        for name, value in zip(names, values, strict=True):
            if value.shape != values[0].shape:
                raise ArgumentError(
                    f'stack_activation: "{name}" is {list(value.shape)} and "{names[0]}" is '
                    f"{list(values[0].shape)}; wanted equal shapes. Read them one by one"
                )
        return torch.stack(values)

    def _decomposed(
        self, index: int, mlp_input: bool, mode: Mode, positions: Cut, incl_embeds: bool
    ) -> tuple[torch.Tensor, list[str]]:
        embed = embed_name(self)
        parts = [Part("embed", embed, 0)] if incl_embeds else []
        parts += parts_of(self, index, mlp_input, mode)
        if not parts:
            raise ArgumentError(f'mode="{mode}": nothing of it was added before layer {index}')
        names = [part.name for part in parts]
        if incl_embeds and mode == "all":  # the sum is promised: it must be there to be compared
            names.append(stream_name(self, index, mlp_input))
        need(self, names, "decompose_resid")
        check_stream(self, embed, index, mlp_input)
        later = Weights(model_of(self)).later_scalars(index)
        stack = torch.stack(
            [wide(positions.apply(self[p.name], -2)) * later[p.layer] for p in parts]
        )
        return stack, [part.label for part in parts]
