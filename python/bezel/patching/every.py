"""Several sweeps in one tensor: `get_act_patch_*_every`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from bezel.arguments import ModelInput
from bezel.errors import ArgumentError
from bezel.patching import named
from bezel.patching.metrics import Metric
from bezel.patching.setters import along
from bezel.patching.sweep import SweepResult, Values, generic_activation_patch

if TYPE_CHECKING:
    from bezel.bridge import Bridge


def get_act_patch_block_every(
    model: Bridge,
    corrupted_tokens: ModelInput,
    clean_cache: Values,
    metric: Metric,
    *,
    values: Sequence[str] = ("resid_pre", "attn_out", "mlp_out"),
    **arguments: Any,
) -> torch.Tensor:
    """Sweeps several values of the stream, one layer and position at a time.

    Args:
        model: The Bridge.
        corrupted_tokens: Token ids [batch pos], or text.
        clean_cache: The clean run's values.
        metric: Of one cell's logits [batch pos d_vocab].
        values: Which; "ple_out" is worth adding where a model has per-layer embeddings.
        **arguments: Of `generic_activation_patch`.

    Returns:
        [value layer pos].

    Example:
        >>> _, cache = b.run_with_cache("Of 7 and 22 , the larger is")
        >>> metric = lambda logits: logits[0, -1, 5]
        >>> get_act_patch_block_every(b, "Of 7 and 4 , the larger is", cache, metric).shape
        torch.Size([3, 10, 9])
    """
    return torch.stack(
        [
            _tensor(
                generic_activation_patch(
                    model,
                    corrupted_tokens,
                    clean_cache,
                    metric,
                    along(1),
                    value,
                    ("layer", "pos"),
                    **arguments,
                )
            )
            for value in values
        ]
    )


def get_act_patch_attn_head_all_pos_every(
    model: Bridge,
    corrupted_tokens: ModelInput,
    clean_cache: Values,
    metric: Metric,
    **arguments: Any,
) -> torch.Tensor:
    """Sweeps every head at all positions: its output, queries, keys, values and pattern.

    Args:
        model: The Bridge.
        corrupted_tokens: Token ids [batch pos], or text.
        clean_cache: The clean run's z, q, k, v and pattern.
        metric: Of one cell's logits [batch pos d_vocab].
        **arguments: Of `generic_activation_patch`.

    Returns:
        [value layer head], values in the order above. For k and v, heads are key/value heads: NaN
        behind the last of them, and in layers that share keys and values.

    Example:
        >>> _, cache = b.run_with_cache("Of 7 and 22")
        >>> metric = lambda logits: logits[0, -1, b.to_single_token("22")]
        >>> get_act_patch_attn_head_all_pos_every(b, "Of 7 and 4", cache, metric).shape
        torch.Size([5, 10, 4])
    """
    sweeps = (
        named.get_act_patch_attn_head_out_all_pos,
        named.get_act_patch_attn_head_q_all_pos,
        named.get_act_patch_attn_head_k_all_pos,
        named.get_act_patch_attn_head_v_all_pos,
        named.get_act_patch_attn_head_pattern_all_pos,
    )
    every = (s(model, corrupted_tokens, clean_cache, metric, **arguments) for s in sweeps)
    return _stacked([_tensor(one) for one in every])


def get_act_patch_attn_head_by_pos_every(
    model: Bridge,
    corrupted_tokens: ModelInput,
    clean_cache: Values,
    metric: Metric,
    **arguments: Any,
) -> torch.Tensor:
    """Sweeps every head at each position: its output, queries, keys, values and pattern.

    Args:
        model: The Bridge.
        corrupted_tokens: Token ids [batch pos], or text.
        clean_cache: The clean run's z, q, k, v and pattern.
        metric: Of one cell's logits [batch pos d_vocab].
        **arguments: Of `generic_activation_patch`.

    Returns:
        [value layer pos head], values in the order above; NaN as in the sweep of all positions. The
        position of a pattern is its q_pos.

    Example:
        >>> _, cache = b.run_with_cache("Of 7 and 22")
        >>> metric = lambda logits: logits[0, -1, b.to_single_token("22")]
        >>> get_act_patch_attn_head_by_pos_every(b, "Of 7 and 4", cache, metric).shape
        torch.Size([5, 10, 5, 4])
    """
    sweeps = (
        named.get_act_patch_attn_head_out_by_pos,
        named.get_act_patch_attn_head_q_by_pos,
        named.get_act_patch_attn_head_k_by_pos,
        named.get_act_patch_attn_head_v_by_pos,
        named.get_act_patch_attn_head_pattern_by_pos,
    )
    every = (s(model, corrupted_tokens, clean_cache, metric, **arguments) for s in sweeps)
    results = [_tensor(one) for one in every]
    results[-1] = results[-1].transpose(1, 2)
    return _stacked(results)


def _tensor(result: SweepResult) -> torch.Tensor:
    if not isinstance(result, torch.Tensor):
        raise ArgumentError(
            'several values are swept at once only to one number for each cell: reduce="scalar" or '
            '"mean", one metric, without baseline and return_index_df'
        )
    return result


def _stacked(results: list[torch.Tensor]) -> torch.Tensor:
    """Along a new first axis; the last axis filled up with NaN to that of the first result."""
    width = max(result.shape[-1] for result in results)
    missing = [width - result.shape[-1] for result in results]
    return torch.stack(
        [
            torch.nn.functional.pad(result, (0, n), value=float("nan"))
            for result, n in zip(results, missing, strict=True)
        ]
    )
