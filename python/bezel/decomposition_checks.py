"""Parts that do not sum are refused: whatever a cache holds is held against each other.

An edit of the stream itself, or between a head and what its layer adds, leaves parts that are not
the whole any more. The gap is compared, at each position, with what rounding can explain.
"""

from __future__ import annotations

import torch

from bezel.cache_values import CachedValues
from bezel.decomposition_inputs import Norm, Weights, model_of, need, stream_name, wide
from bezel.errors import DecompositionError

_SUM_ROUNDINGS = 2  # one sum is rounded by half an epsilon at most; room for casts of what was kept
_PRODUCT_GATES = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 5e-3}
_BFLOAT16_GATE = 3e-2  # four epsilons


def coarsest(cache: CachedValues, *values: torch.Tensor) -> torch.dtype:
    """The dtype with the largest epsilon among the run's and those of the values."""
    dtypes = [cache.origin.dtype, *(value.dtype for value in values)]
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def check_product(
    cache: CachedValues, parts: torch.Tensor, size: torch.Tensor, name: str, want: torch.Tensor
) -> None:
    """Raises DecompositionError unless the summed parts are the recorded value.

    Args:
        cache: Where the parts are from.
        parts: Their sum [… d_model].
        size: [… 1] or [… d_model], how large the parts are before they cancel.
        name: Of the recorded value.
        want: The recorded value [… d_model].
    """
    gate = _PRODUCT_GATES.get(coarsest(cache, want), _BFLOAT16_GATE)
    _refuse_gap(parts, wide(want), gate * size.norm(dim=-1), f'"{name}"')


def check_norm(cache: CachedValues, layer: int, mlp_input: bool) -> Norm:
    """The norm that a stream goes through, if it is linear in it at the recorded scale.

    Raises:
        UnknownHookError: What shows that was not recorded.
        DecompositionError: A hook edited the norm's output, or what it reads.
    """
    norm, stream = Norm.at(cache, layer, mlp_input), stream_name(cache, layer, mlp_input)
    names = (stream, norm.scale_name, f"{norm.name}.hook_normalized")
    need(cache, names, f"to see parts through {norm.name}, bezel")
    value, scale, normalized = (cache[name] for name in names)
    gate = 4 * torch.finfo(coarsest(cache, value, scale, normalized)).eps
    got = wide(normalized) * wide(scale)
    bound = gate * wide(value).norm(dim=-1)
    _refuse_gap(got, wide(value), bound, f'"{stream}" through {norm.name}')
    return norm


class StreamCheck:
    """Follows the stream from part to part, and compares it wherever it was recorded."""

    def __init__(self, cache: CachedValues) -> None:
        self._cache = cache
        self._stream: torch.Tensor | None = None
        self._dtypes: list[torch.Tensor] = []
        self._square = torch.zeros(())  # of the sizes that were rounded since the last comparison

    def adds(self, name: str) -> None:
        """A part is added; where it was not recorded, the stream is unknown for a while."""
        if self._stream is None or name not in self._cache:
            self._stream = None
            return
        part = self._cache[name]
        self._stream = self._stream + wide(part)
        self._rounded(self._stream, part)

    def scales(self, factor: float) -> None:
        """The whole stream is multiplied."""
        if self._stream is not None:
            self._stream = self._stream * factor
            self._square = self._square * factor**2
            self._rounded(self._stream)

    def is_at(self, name: str) -> None:
        """The stream is this value, if it was recorded; from here on it is the recorded one."""
        if name not in self._cache:
            return
        value = self._cache[name]
        if self._stream is not None:
            eps = torch.finfo(coarsest(self._cache, value, *self._dtypes)).eps
            self._rounded(self._stream)
            bound = _SUM_ROUNDINGS * eps * self._square.sqrt()
            _refuse_gap(self._stream, wide(value), bound, f'"{name}"')
        self._stream, self._dtypes = wide(value), [value]
        self._square = self._stream.square().sum(-1)

    def _rounded(self, *values: torch.Tensor) -> None:
        self._dtypes += values
        for value in values:
            self._square = self._square + wide(value).square().sum(-1)


def check_stream(cache: CachedValues, embed: str, layer: int, mlp_input: bool) -> None:
    """Raises DecompositionError where the stream is not the sum of what was added to it."""
    model = model_of(cache)
    scalars = Weights(model).layer_scalars()
    walk = StreamCheck(cache)
    walk.is_at(embed)
    for i in range(layer + mlp_input):
        block = f"blocks.{i}."
        walk.is_at(block + "hook_resid_pre")
        walk.adds(block + "hook_attn_out")
        walk.is_at(block + "hook_resid_mid")
        if i == layer:
            return
        walk.adds(block + "hook_mlp_out")
        if model.cfg.d_ple > 0:
            walk.adds(block + "hook_ple_out")
        walk.scales(scalars[i])
        walk.is_at(block + "hook_resid_post")
    if layer < cache.n_layers:
        walk.is_at(f"blocks.{layer}.hook_resid_pre")


def _refuse_gap(got: torch.Tensor, want: torch.Tensor, bound: torch.Tensor, place: str) -> None:
    gap = (got - want).norm(dim=-1)
    if bool((gap <= bound).all()):  # not so either where a value is not a number
        return
    worst = float((gap / want.norm(dim=-1)).nan_to_num(float("inf"), float("inf")).max())
    raise DecompositionError(
        f"the parts do not sum to {place}: off by {worst:.1e} of it at the worst position. A hook "
        "changed the value between the parts and there (the parts of a run with that edit are not "
        "the whole), or these are not the weights of that run. Decompose a run without the edit; "
        "edits of what is added (hook_attn_out, hook_mlp_out, hook_ple_out, attn.hook_z) are exact"
    )
