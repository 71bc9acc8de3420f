"""The part of a Bridge that hands out its weights, with TransformerLens's names and axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch

from bezel import _C
from bezel.errors import ArgumentError, NoSuchWeightError
from bezel.factored_matrix import FactoredMatrix
from bezel.folding import folded_weights
from bezel.gains import Gains, LayerTensor
from bezel.layers import Layer
from bezel.per_layer import PerLayer, stack_or_list

_KINDS: dict[str, Callable[[_C.ModelSpec, _C.LayerSpec], bool]] = {
    "attn": lambda model, layer: True,
    "mlp": lambda model, layer: True,
    "moe": lambda model, layer: layer.moe is not None,
    "dense": lambda model, layer: layer.moe is None,
    "ple": lambda model, layer: model.d_ple > 0,
    "own_kv": lambda model, layer: layer.attention.donor is None,
    "shared_kv": lambda model, layer: layer.attention.donor is not None,
    "donor": lambda model, layer: layer.attention.donates,
    "k_is_v": lambda model, layer: layer.attention.k_is_v,
    "sliding": lambda model, layer: layer.attention.window_tokens is not None,
    "full": lambda model, layer: layer.attention.window_tokens is None,
}


class Weights(Gains):
    """Weights as they multiply a row of the stream: x @ W.

    One block's are views on the model's memory: `b.blocks[3].attn.W_Q`. Those of all layers are a
    tensor [layer …] where the shapes agree, which is a copy; else a `PerLayer` of views, indexed by
    layer. There are no biases. A weight that the model lacks raises NoSuchWeightError.
    """

    @property
    def W_E(self) -> torch.Tensor:  # noqa: N802
        """Embedding table [d_vocab d_model], a view; hook_embed is W_E[token] * embed_scale."""
        return self._slots["embed"]

    @property
    def embed_scale(self) -> float:
        """√d_model, rounded to the weights' dtype as the reference rounds it."""
        return float(torch.tensor(self.cfg.d_model**0.5, dtype=self.dtype))

    @property
    def W_U(self) -> torch.Tensor:  # noqa: N802
        """Unembedding [d_model d_vocab], a view; hook_unembed is the final norm's output @ W_U."""
        return self._slots["embed" if self.cfg.tied_head else "unembed"].T

    @property
    def W_Q(self) -> LayerTensor:  # noqa: N802
        """Queries [layer head d_model d_head]."""
        return self._of_layers("W_Q", lambda layer: layer.attn.W_Q)

    @property
    def W_K(self) -> LayerTensor:  # noqa: N802
        """Keys [layer kv_head d_model d_head]; where a layer shares keys, its donor's."""
        return self._of_layers("W_K", lambda layer: layer.attn.W_K)

    @property
    def W_V(self) -> LayerTensor:  # noqa: N802
        """Values [layer kv_head d_model d_head]; the donor's under sharing, W_K where K == V."""
        return self._of_layers("W_V", lambda layer: layer.attn.W_V)

    @property
    def W_O(self) -> LayerTensor:  # noqa: N802
        """Output [layer head d_head d_model]; attn.hook_result is hook_z @ W_O, head by head."""
        return self._of_layers("W_O", lambda layer: layer.attn.W_O)

    @property
    def W_gate(self) -> LayerTensor:  # noqa: N802
        """Gate of the dense feed-forward [layer d_model d_mlp]."""
        return self._of_layers("W_gate", lambda layer: layer.mlp.W_gate)

    @property
    def W_in(self) -> LayerTensor:  # noqa: N802
        """The gated half of the dense feed-forward ("up") [layer d_model d_mlp]."""
        return self._of_layers("W_in", lambda layer: layer.mlp.W_in)

    @property
    def W_out(self) -> LayerTensor:  # noqa: N802
        """Output of the dense feed-forward [layer d_mlp d_model]."""
        return self._of_layers("W_out", lambda layer: layer.mlp.W_out)

    @property
    def W_router(self) -> LayerTensor:  # noqa: N802
        """Router [layer d_model expert]; logits are normed(x) * router_scale / √d_model @ W."""
        return self._of_layers("W_router", lambda layer: layer.moe.W_router)

    @property
    def router_scales(self) -> LayerTensor:
        """Gain of the router's norm [layer d_model]."""
        return self._of_layers("router_scales", lambda layer: layer.moe.router_scale)

    @property
    def expert_scales(self) -> LayerTensor:
        """What the weight of a chosen expert is multiplied by [layer expert]."""
        return self._of_layers("expert_scales", lambda layer: layer.moe.expert_scale)

    @property
    def W_expert_gate(self) -> LayerTensor:  # noqa: N802
        """Gate of each expert [layer expert d_model d_expert]."""
        return self._of_layers("W_expert_gate", lambda layer: layer.moe.W_gate)

    @property
    def W_expert_in(self) -> LayerTensor:  # noqa: N802
        """The gated half of each expert [layer expert d_model d_expert]."""
        return self._of_layers("W_expert_in", lambda layer: layer.moe.W_in)

    @property
    def W_expert_out(self) -> LayerTensor:  # noqa: N802
        """Output of each expert [layer expert d_expert d_model]."""
        return self._of_layers("W_expert_out", lambda layer: layer.moe.W_out)

    @property
    def W_PLE(self) -> torch.Tensor:  # noqa: N802
        """Per-layer embeddings [d_vocab layer d_ple], a view; ple.hook_token is these * √d_ple."""
        return self._of_ple("table").view(-1, self.cfg.n_layers, self.cfg.d_ple)

    @property
    def W_PLE_context(self) -> torch.Tensor:  # noqa: N802
        """Context part of the per-layer embeddings [layer d_model d_ple], a view."""
        return self._of_ple("projection").view(-1, self.cfg.d_ple, self.cfg.d_model).mT

    @property
    def w_ple_norm(self) -> torch.Tensor:
        """Gain of the context part's norm [d_ple], a view."""
        return self._of_ple("norm")

    @property
    def W_PLE_gate(self) -> LayerTensor:  # noqa: N802
        """From the stream to ple.hook_gate [layer d_model d_ple]."""
        return self._of_layers("W_PLE_gate", lambda layer: layer.ple.W_gate)

    @property
    def W_PLE_out(self) -> LayerTensor:  # noqa: N802
        """From ple.hook_post to the norm before hook_ple_out [layer d_ple d_model]."""
        return self._of_layers("W_PLE_out", lambda layer: layer.ple.W_out)

    @property
    def layer_scalars(self) -> torch.Tensor:
        """The number that each block's whole result is multiplied by [layer]."""
        return torch.stack([layer.layer_scalar for layer in self.blocks])

    @property
    def QK(self) -> FactoredMatrix | PerLayer[FactoredMatrix]:  # noqa: N802
        """W_Q @ W_K.mT [layer head d_model d_model], GQA and sharing resolved.

        Between two normed streams, norm gain included (under sharing, the keys' is the donor's).
        What stands between it and the scores is not here: q_norm and k_norm with their gains
        (`blocks[i].attn.q_norm.w`), and RoPE.
        """
        return stack_or_list("QK", self.cfg.n_layers, lambda i: self.blocks[i].attn.QK)

    @property
    def OV(self) -> FactoredMatrix | PerLayer[FactoredMatrix]:  # noqa: N802
        """W_V @ W_O [layer head d_model d_model], GQA, K == V and sharing resolved.

        From a normed stream (norm gain included; of the donor's layer under sharing) to
        attn.hook_result, but for the weightless norm of each value: divide by its scale.
        """
        return stack_or_list("OV", self.cfg.n_layers, lambda i: self.blocks[i].attn.OV)

    @property
    def all_head_labels(self) -> list[str]:
        """["L0H0", "L0H1", …], layer by layer."""
        heads = range(self.cfg.n_heads)
        return [f"L{layer}H{head}" for layer in range(self.cfg.n_layers) for head in heads]

    def folded(self, share_unchanged: bool = False) -> Self:
        """A copy whose norm gains stand in the projections that follow; the same logits.

        Folded: ln1 into W_Q, W_K, W_V; ln2 into W_gate, W_in; ln2_moe into the experts' W_gate,
        W_in; the router's scale into W_router; ln_final into W_U, which is untied from W_E by that.
        Their gains are 1 in the copy, so that `hook_normalized @ W` is the projection's value.
        Not folded, since no projection alone follows them: q_norm and k_norm (RoPE does), the norms
        after attention, feed-forward, experts and per-layer embedding (the stream does), the
        per-layer embeddings' own norm, and layer_scalars, which scale the skip path as well.

        Args:
            share_unchanged: True lets the copy share the memory of the weights that folding leaves
                alone: cheaper, and writing into one of them then changes both models.

        Returns:
            A model of its own, frozen, without hooks. In bfloat16 the products are rounded.

        Example:
            >>> folded = b.folded()
            >>> torch.allclose(folded("Emma knows"), b("Emma knows"), atol=1e-4)
            True
        """
        core = _C.with_weights(self._core, folded_weights(self._slots, self.W_U, share_unchanged))
        name = f"{self._name}, folded"
        return type(self)(core, self.tokenizer, self._path.name, name, self._processor_source)

    def blocks_with(self, kind: str) -> list[tuple[int, Layer]]:
        """The blocks of a kind.

        Args:
            kind: "attn", "mlp" (every block), "moe", "dense" (without experts), "ple", "own_kv",
                "shared_kv", "donor", "k_is_v", "sliding" or "full".

        Returns:
            (index, weights) of each, as in TransformerLens.

        Example:
            >>> [i for i, _ in b.blocks_with("full")]
            [4, 9]
        """
        if kind not in _KINDS:
            raise ArgumentError(f"blocks_with({kind!r}); wanted one of {', '.join(_KINDS)}")
        fits = _KINDS[kind]
        return [
            (i, self.blocks[i]) for i, spec in enumerate(self.cfg.layers) if fits(self.cfg, spec)
        ]

    def loss_fn(
        self,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        per_token: bool = False,
    ) -> torch.Tensor:
        """Next-token cross entropy, as `forward` computes it with return_type="both".

        Args:
            logits: [batch pos d_vocab].
            tokens: [batch pos]; -100 is ignored.
            attention_mask: [batch pos], 0 at padding: a pair counts where both of it are valid.
            per_token: The loss of every pair in place of their mean.

        Returns:
            Nats: one number, or [batch pos-1] with 0 where a pair does not count.

        Example:
            >>> tokens = b.to_tokens("As Emma knows , the capital of France is")
            >>> logits, loss = b(tokens, return_type="both")
            >>> torch.equal(b.loss_fn(logits, tokens), loss)
            True
        """
        if logits.ndim != 3 or (
            attention_mask is not None and attention_mask.shape != tokens.shape
        ):
            shapes = [
                None if x is None else list(x.shape) for x in (logits, tokens, attention_mask)
            ]
            raise ArgumentError(
                f"logits, tokens and attention_mask are {shapes[0]}, {shapes[1]} and {shapes[2]}; "
                "wanted [batch pos d_vocab], [batch pos] and [batch pos]"
            )
        valid = None if attention_mask is None else attention_mask.to(logits.device)
        compute = _C.loss_per_token if per_token else _C.mean_loss
        return compute(logits, tokens.to(logits.device), valid)

    def _of_ple(self, name: str) -> torch.Tensor:
        if f"ple.{name}" not in self._slots:
            raise NoSuchWeightError("this model has no per-layer embeddings")
        return self._slots[f"ple.{name}"]
