"""Several sweeps in one tensor: `get_act_patch_*_every`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from bezel.arguments import ModelInput
from bezel.errors import ArgumentError
from bezel.patching import named
from bezel.patching.metrics import Metric
from bezel.patching.setters import along
from bezel.patching.sweep import SweepResult, Values, generic_activation_patch

if TYPE_CHECKING:
    from bezel.bridge import Bridge

HeadSweep: TypeAlias = Callable[..., torch.Tensor]


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


_DOC = """Sweeps every head at {places}: its output, queries, keys, values and pattern.

    Args:
        model: The Bridge.
        corrupted_tokens: Token ids [batch pos], or text.
        clean_cache: The clean run's z, q, k, v and pattern.
        metric: Of one cell's logits [batch pos d_vocab].
        **arguments: Of `generic_activation_patch`.

    Returns:
        [{axes}], values in the order above. For k and v, heads are key/value heads: NaN behind the
        last of them, and in layers that share keys and values. The position of a pattern is its
        q_pos.

    Example:
        >>> _, cache = b.run_with_cache("Of 7 and 22")
        >>> metric = lambda logits: logits[0, -1, b.to_single_token("22")]
        >>> {name}(b, "Of 7 and 4", cache, metric).ndim
        {n_axes}
    """


def _every_head(name: str, places: str, axes: str, *sweeps: named.NamedSweep) -> HeadSweep:
    def every(
        model: Bridge,
        corrupted_tokens: ModelInput,
        clean_cache: Values,
        metric: Metric,
        **arguments: Any,
    ) -> torch.Tensor:
        results = [
            _tensor(sweep(model, corrupted_tokens, clean_cache, metric, **arguments))
            for sweep in sweeps
        ]
        results[-1] = results[-1].movedim(1, -1)  # a pattern's head stands before its q_pos
        return _stacked(results)

    every.__doc__ = _DOC.format(name=name, places=places, axes=axes, n_axes=len(axes.split()))
    every.__name__ = every.__qualname__ = name
    return every


get_act_patch_attn_head_all_pos_every = _every_head(
    "get_act_patch_attn_head_all_pos_every",
    "all positions",
    "value layer head",
    named.get_act_patch_attn_head_out_all_pos,
    named.get_act_patch_attn_head_q_all_pos,
    named.get_act_patch_attn_head_k_all_pos,
    named.get_act_patch_attn_head_v_all_pos,
    named.get_act_patch_attn_head_pattern_all_pos,
)
get_act_patch_attn_head_by_pos_every = _every_head(
    "get_act_patch_attn_head_by_pos_every",
    "each position",
    "value layer pos head",
    named.get_act_patch_attn_head_out_by_pos,
    named.get_act_patch_attn_head_q_by_pos,
    named.get_act_patch_attn_head_k_by_pos,
    named.get_act_patch_attn_head_v_by_pos,
    named.get_act_patch_attn_head_pattern_by_pos,
)


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
