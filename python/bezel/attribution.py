"""Parts of the stream as a norm sees them, and what each gives to a token's logit."""

from __future__ import annotations

from typing import TypeAlias

import torch

from bezel.cache_slice import Cut, SliceInput
from bezel.cache_values import CachedValues
from bezel.decomposition_checks import check_norm
from bezel.decomposition_inputs import Norm, Weights, layer_index, model_of, wide
from bezel.errors import ArgumentError
from bezel.text import encode

TokenInput: TypeAlias = str | int | torch.Tensor


class Attribution(CachedValues):
    """Norms at their recorded scale, and logit attribution."""

    def apply_ln_to_stack(  # noqa: PLR0913  TransformerLens's signature
        self,
        residual_stack: torch.Tensor,
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: SliceInput = None,
        batch_slice: SliceInput = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,
    ) -> torch.Tensor:
        """Parts of the stream as a block's norm (or the final one) hands them on.

        The norm is linear at the scale that the run recorded: each part is divided by it and
        multiplied by the gain, and parts that sum to the stream sum to the norm's output.

        Args:
            residual_stack: [part batch pos d_model], or without the axes that were dropped.
            layer: The block whose input this is; None and -1 are the end, ln_final.
            mlp_input: Take ln2 of the block (the dense MLP's norm) instead of ln1.
            pos_slice: Applied to the scale alone: the stack has been cut already.
            batch_slice: Applied to the stack and to the scale.
            has_batch_dim: False for a stack without a batch axis.
            recompute_ln: Norm each part by its own root-mean-square: parts that are whole streams
                (the logit lens), not summands.

        Returns:
            [part batch pos d_model], at least float32.

        Raises:
            UnknownHookError: The stream, the norm's scale or its normalized value was not recorded;
                with the names_filter to use.
            ArgumentError: The stack has other rows or positions than the scale.
            DecompositionError: A hook edited the norm, so that its output is not linear in this.

        Example:
            >>> stack = cache.decompose_resid(pos_slice=-1)
            >>> parts = cache.apply_ln_to_stack(stack, pos_slice=-1)
            >>> normed = cache["ln_final.hook_normalized"][:, -1] * b.w_ln_final
            >>> torch.allclose(parts.sum(0), normed, atol=1e-4)
            True
        """
        index = layer_index(self, layer, mlp_input)
        rows, positions = Cut(batch_slice, "batch_slice"), Cut(pos_slice)
        if has_batch_dim and not rows.keeps_all:
            if not self.has_batch_dim:
                raise ArgumentError("batch_slice: this cache has no batch axis any more")
            residual_stack = rows.apply(residual_stack, 1)
        norm = Norm.at(self, index, mlp_input)
        gain = Weights(model_of(self)).beside(norm.slot, residual_stack)
        stack = residual_stack.to(gain.dtype)
        if recompute_ln:
            eps = model_of(self).cfg.norm_eps
            return stack / (stack.square().mean(-1, keepdim=True) + eps).sqrt() * gain
        scale = check_norm(self, index, mlp_input).scale(self, positions)
        if self.has_batch_dim and not rows.keeps_all:
            scale = rows.apply(scale, 0)
        _check_places(stack, scale)
        return stack / scale * gain

    def logit_attrs(
        self,
        residual_stack: torch.Tensor,
        tokens: TokenInput,
        incorrect_tokens: TokenInput | None = None,
        pos_slice: SliceInput = None,
        batch_slice: SliceInput = None,
        has_batch_dim: bool = True,
    ) -> torch.Tensor:
        """What each part of the stream gives to the logit of a token, or to a logit difference.

        Attributions of parts that sum to the final stream sum to `hook_unembed`: the logit *before*
        the final softcap, cap · tanh(x / cap). No linear attribution crosses the softcap; it keeps
        the order of the logits, and shrinks differences between large ones.

        Args:
            residual_stack: [part batch pos d_model], or without the axes that were dropped.
            tokens: A token id; a text of one token; ids [], [batch] (one for each row), [pos]
                (where its length is not the batch's) or [batch pos]. They fit the stack as cut.
            incorrect_tokens: Of the same shape: attributions of logit(tokens) minus logit(these).
            pos_slice: As in `apply_ln_to_stack`, for a stack that was cut so.
            batch_slice: As in `apply_ln_to_stack`.
            has_batch_dim: False for a stack without a batch axis.

        Returns:
            [part batch pos], or without the axes that were dropped.

        Raises:
            UnknownHookError: The end of the stream, or ln_final.hook_scale or .hook_normalized, was
                not recorded.
            ArgumentError: Shapes that do not fit; a text that is not one token.

        Example:
            >>> parts, labels = cache.decompose_resid(pos_slice=-1, return_labels=True)
            >>> scores = cache.logit_attrs(parts, " Paris", " Rome", pos_slice=-1)  # [part batch]
            >>> labels[int(scores.argmax())]
            '9_mlp_out'
        """
        ids = self._token_ids(tokens)
        weights = Weights(model_of(self)).unembed()
        direction = _rows_of(weights, ids)
        if incorrect_tokens is not None:
            others = self._token_ids(incorrect_tokens)
            if others.shape != ids.shape:
                raise ArgumentError(
                    f"incorrect_tokens is {list(others.shape)} and tokens is {list(ids.shape)}; "
                    "wanted equal shapes"
                )
            direction = direction - _rows_of(weights, others)
        stack = self.apply_ln_to_stack(
            residual_stack,
            pos_slice=pos_slice,
            batch_slice=batch_slice,
            has_batch_dim=has_batch_dim,
        )
        return (stack * _over_places(direction.to(stack.device), stack)).sum(-1)

    def _token_ids(self, tokens: TokenInput) -> torch.Tensor:
        model = model_of(self)
        if isinstance(tokens, str):
            ids = encode(tokens, model.tokenizer, model.cfg, False, None).tokens[0]
            if len(ids) != 1:
                raise ArgumentError(
                    f"{tokens!r} is {len(ids)} tokens, {ids.tolist()}; wanted one. Give the id of "
                    "the token that you mean"
                )
            return ids[0]
        ids = torch.as_tensor(tokens)
        if ids.is_floating_point() or ids.dtype == torch.bool:
            raise ArgumentError(f"tokens is {ids.dtype}; wanted token ids, integers")
        if bool(((ids < 0) | (ids >= model.cfg.d_vocab)).any()):
            raise ArgumentError(
                f"tokens has ids from {int(ids.min())} to {int(ids.max())}; wanted 0 to "
                f"{model.cfg.d_vocab - 1}"
            )
        return ids


def _rows_of(weights: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return wide(weights[ids.to(weights.device)])


def _check_places(stack: torch.Tensor, scale: torch.Tensor) -> None:
    got, want = list(stack.shape[1:-1]), list(scale.shape[:-1])
    if stack.ndim < 1 or got != want:
        raise ArgumentError(
            f"the stack is {list(stack.shape)}, and the norm's scale at the chosen places is "
            f"{want}; wanted [part, {', '.join(map(str, [*want, 'd_model']))}]. A stack cut to "
            "some positions or rows needs the same pos_slice or batch_slice here"
        )


def _over_places(direction: torch.Tensor, stack: torch.Tensor) -> torch.Tensor:
    """Directions [d_model], [batch d_model], [pos d_model] … with axes for every place."""
    places = stack.shape[1:-1]
    shape = direction.shape[:-1]
    if len(shape) == 1 and len(places) == 2 and shape[0] == places[0]:  # one for each row
        return direction.unsqueeze(-2)
    ends = zip(reversed(shape), reversed(places), strict=False)
    if len(shape) <= len(places) and all(one in (1, place) for one, place in ends):
        return direction
    raise ArgumentError(
        f"tokens is {list(shape)}, and the stack's rows and positions are {list(places)}; wanted "
        "one id, one for each row, one for each position, or one for each place"
    )
