"""The weights of one block as views with TransformerLens's names and axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from bezel import _C
from bezel.errors import NoSuchWeightError
from bezel.factored_matrix import FactoredMatrix

Slots = Mapping[str, torch.Tensor]


class Norm(NamedTuple):
    """A norm; its output is hook_normalized * w."""

    w: torch.Tensor  # [d_model]; of q_norm and k_norm [d_head]


class Attention(NamedTuple):
    """A block's attention.

    W_K, W_V and k_norm of a block that shares keys and values are its donor's; where keys are
    values, W_V is W_K.
    """

    W_Q: torch.Tensor  # [head d_model d_head]
    W_K: torch.Tensor  # [kv_head d_model d_head]
    W_V: torch.Tensor  # [kv_head d_model d_head]
    W_O: torch.Tensor  # [head d_head d_model]
    q_norm: Norm
    k_norm: Norm

    @property
    def QK(self) -> FactoredMatrix:  # noqa: N802
        """W_Q @ W_K.mT of each head [head d_model d_model], between two normed streams."""
        return FactoredMatrix(self.W_Q, self._for_each_head(self.W_K).mT)

    @property
    def OV(self) -> FactoredMatrix:  # noqa: N802
        """W_V @ W_O of each head [head d_model d_model]."""
        return FactoredMatrix(self._for_each_head(self.W_V), self.W_O)

    def _for_each_head(self, w: torch.Tensor) -> torch.Tensor:
        """[kv_head …] → [head …]: heads h * group to (h + 1) * group - 1 read key/value head h."""
        return w.repeat_interleave(self.W_Q.shape[0] // w.shape[0], dim=0)


class Mlp(NamedTuple):
    """A block's dense feed-forward."""

    W_gate: torch.Tensor  # [d_model d_mlp]
    W_in: torch.Tensor  # [d_model d_mlp]
    W_out: torch.Tensor  # [d_mlp d_model]


class Moe(NamedTuple):
    """A block's experts and their router."""

    W_router: torch.Tensor  # [d_model expert]
    router_scale: torch.Tensor  # [d_model], times the router's weightless norm
    expert_scale: torch.Tensor  # [expert], times the weights of the chosen
    W_gate: torch.Tensor  # [expert d_model d_expert]
    W_in: torch.Tensor  # [expert d_model d_expert]
    W_out: torch.Tensor  # [expert d_expert d_model]


class Ple(NamedTuple):
    """A block's use of its per-layer embedding."""

    W_gate: torch.Tensor  # [d_model d_ple]
    W_out: torch.Tensor  # [d_ple d_model]


class Layer:
    """One block's weights: views, so that a write changes the model.

    Example:
        >>> b.blocks[3].attn.W_Q.shape  # [head d_model d_head]
        torch.Size([4, 96, 32])
    """

    def __init__(self, slots: Slots, spec: _C.ModelSpec, index: int) -> None:
        self._slots = slots
        self._spec = spec
        self._index = index
        self._layer = spec.layers[index]

    @property
    def attn(self) -> Attention:
        """W_Q, W_K, W_V, W_O, q_norm, k_norm."""
        spec = self._layer.attention
        source = self if spec.donor is None else Layer(self._slots, self._spec, spec.donor)
        w_k, w_v = source._keys_values()
        return Attention(
            _heads(self._slot("attention.qkv")[: spec.n_heads * spec.d_head], spec.d_head),
            w_k,
            w_v,
            self._slot("attention.out").view(-1, spec.n_heads, spec.d_head).permute(1, 2, 0),
            Norm(self._slot("attention.q_norm")),
            Norm(source._slot("attention.k_norm")),
        )

    @property
    def mlp(self) -> Mlp:
        """W_gate, W_in, W_out."""
        gate, up = self._slot("mlp.gate_up").chunk(2)
        return Mlp(gate.T, up.T, self._slot("mlp.down").T)

    @property
    def moe(self) -> Moe:
        """W_router, router_scale, expert_scale, W_gate, W_in, W_out."""
        gate, up = self._slot("moe.gate_up").chunk(2, dim=1)
        return Moe(
            self._slot("moe.router").T,
            self._slot("moe.router_scale"),
            self._slot("moe.per_expert_scale"),
            gate.mT,
            up.mT,
            self._slot("moe.down").mT,
        )

    @property
    def ple(self) -> Ple:
        """W_gate, W_out."""
        return Ple(self._slot("ple.gate").T, self._slot("ple.projection").T)

    @property
    def ln1(self) -> Norm:
        """Before attention."""
        return Norm(self._slot("ln1"))

    @property
    def ln1_post(self) -> Norm:
        """After attention."""
        return Norm(self._slot("ln1_post"))

    @property
    def ln2(self) -> Norm:
        """Before the dense feed-forward."""
        return Norm(self._slot("ln2"))

    @property
    def ln2_post(self) -> Norm:
        """After the feed-forward, experts included."""
        return Norm(self._slot("ln2_post"))

    @property
    def ln2_dense_post(self) -> Norm:
        """After the dense feed-forward that stands beside experts."""
        return Norm(self._slot("moe.ln2_dense_post"))

    @property
    def ln2_moe(self) -> Norm:
        """Before the experts."""
        return Norm(self._slot("moe.ln2_moe"))

    @property
    def ln2_moe_post(self) -> Norm:
        """After the experts."""
        return Norm(self._slot("moe.ln2_moe_post"))

    @property
    def ple_post(self) -> Norm:
        """After the per-layer embedding."""
        return Norm(self._slot("ple.post_norm"))

    @property
    def layer_scalar(self) -> torch.Tensor:
        """The number [] that the block's whole result is multiplied by."""
        return self._slot("layer_scalar")[0]

    def __repr__(self) -> str:
        return f"Layer({self._index})"

    def _keys_values(self) -> tuple[torch.Tensor, torch.Tensor]:
        spec = self._layer.attention
        rows = self._slot("attention.qkv")[spec.n_heads * spec.d_head :]
        keys = _heads(rows[: spec.n_kv_heads * spec.d_head], spec.d_head)
        values = _heads(rows[-spec.n_kv_heads * spec.d_head :], spec.d_head)
        return keys, values  # the same rows where keys are values

    def _slot(self, name: str) -> torch.Tensor:
        full = f"layers.{self._index}.{name}"
        if full not in self._slots:
            raise NoSuchWeightError(f"layer {self._index} of this model has no {name}")
        return self._slots[full]


def _heads(rows: torch.Tensor, d_head: int) -> torch.Tensor:
    """[head * d_head, d_model] → [head d_model d_head], a view."""
    return rows.view(-1, d_head, rows.shape[1]).mT
