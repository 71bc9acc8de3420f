"""The part of a Bridge that hands out the gains of its norms."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TypeAlias

import torch

from bezel.layers import Layer, Slots
from bezel.model import Model
from bezel.per_layer import PerLayer, stack_or_list

LayerTensor: TypeAlias = torch.Tensor | PerLayer[torch.Tensor]


class Gains(Model):
    """What each norm multiplies hook_normalized by."""

    @cached_property
    def _slots(self) -> Slots:
        return dict(self._core.named_weights())

    @cached_property
    def blocks(self) -> tuple[Layer, ...]:
        """The weights of each block as views: `b.blocks[3].attn.W_Q`, `b.blocks[3].ln1.w`."""
        return tuple(Layer(self._slots, self.cfg, i) for i in range(self.cfg.n_layers))

    @property
    def w_ln_final(self) -> torch.Tensor:
        """Gain of the final norm [d_model], a view."""
        return self._slots["ln_final"]

    @property
    def w_ln1(self) -> LayerTensor:
        """Gain of the norm before attention [layer d_model]."""
        return self._of_layers("w_ln1", lambda layer: layer.ln1.w)

    @property
    def w_ln1_post(self) -> LayerTensor:
        """Gain of the norm after attention [layer d_model]."""
        return self._of_layers("w_ln1_post", lambda layer: layer.ln1_post.w)

    @property
    def w_ln2(self) -> LayerTensor:
        """Gain of the norm before the dense feed-forward [layer d_model]."""
        return self._of_layers("w_ln2", lambda layer: layer.ln2.w)

    @property
    def w_ln2_post(self) -> LayerTensor:
        """Gain of the norm after the feed-forward [layer d_model]."""
        return self._of_layers("w_ln2_post", lambda layer: layer.ln2_post.w)

    @property
    def w_ln2_dense_post(self) -> LayerTensor:
        """Gain of the norm after the dense feed-forward beside experts [layer d_model]."""
        return self._of_layers("w_ln2_dense_post", lambda layer: layer.ln2_dense_post.w)

    @property
    def w_ln2_moe(self) -> LayerTensor:
        """Gain of the norm before the experts [layer d_model]."""
        return self._of_layers("w_ln2_moe", lambda layer: layer.ln2_moe.w)

    @property
    def w_ln2_moe_post(self) -> LayerTensor:
        """Gain of the norm after the experts [layer d_model]."""
        return self._of_layers("w_ln2_moe_post", lambda layer: layer.ln2_moe_post.w)

    @property
    def w_ple_post(self) -> LayerTensor:
        """Gain of the norm after the per-layer embedding [layer d_model]."""
        return self._of_layers("w_ple_post", lambda layer: layer.ple_post.w)

    @property
    def w_q_norm(self) -> LayerTensor:
        """Gain of the queries' norm [layer d_head]."""
        return self._of_layers("w_q_norm", lambda layer: layer.attn.q_norm.w)

    @property
    def w_k_norm(self) -> LayerTensor:
        """Gain of the keys' norm [layer d_head]; where a layer shares keys, its donor's."""
        return self._of_layers("w_k_norm", lambda layer: layer.attn.k_norm.w)

    def _of_layers(self, name: str, weight: Callable[[Layer], torch.Tensor]) -> LayerTensor:
        return stack_or_list(name, self.cfg.n_layers, lambda i: weight(self.blocks[i]))
