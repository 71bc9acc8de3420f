"""What decompositions start from: recorded values, weights, layer scalars, norms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from bezel.cache_slice import Cut
from bezel.cache_values import CachedValues, layer_of
from bezel.errors import ArgumentError, UnknownHookError
from bezel.model import Model


def model_of(cache: CachedValues) -> Model:
    """The model of a cache; raises ArgumentError where it was loaded without one."""
    if cache.model is None:
        raise ArgumentError(
            "this needs the model's weights, and the cache has no model: load it with "
            "ActivationCache.load(path, model=b), or set cache.model = b"
        )
    return cache.model


def wide(value: torch.Tensor) -> torch.Tensor:
    """At least float32: sums of many parts are not taken in bfloat16."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def need(cache: CachedValues, names: Iterable[str], method: str) -> None:
    """Raises UnknownHookError, with a names_filter to paste, unless all of these were recorded."""
    wanted = list(dict.fromkeys(names))
    missing = [name for name in wanted if name not in cache]
    if not missing:
        return
    others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    globs = [_glob(name) for name in wanted]
    # A glob where several blocks are meant, so that the list stays one that a person reads.
    rows = [name if globs.count(row) == 1 else row for name, row in zip(wanted, globs, strict=True)]
    listed = ", ".join(f'"{row}"' for row in dict.fromkeys(rows))
    raise UnknownHookError(
        f'{method} needs "{missing[0]}"{others}, which this cache does not have; run with '
        f"names_filter=[{listed}] (these and whatever else you read)"
    )


def _glob(name: str) -> str:
    return name if layer_of(name) is None else "blocks.*." + name.split(".", 2)[2]


class Weights:
    """The model's weights by slot, where and as wide as the values that they meet."""

    def __init__(self, model: Model) -> None:
        self._by_slot = dict(model._core.named_weights())
        self._n_layers = model.cfg.n_layers

    def beside(self, slot: str, value: torch.Tensor) -> torch.Tensor:
        """The weight on the value's device, in the wider of the two dtypes."""
        weight = self._by_slot[slot].detach()
        return wide(weight.to(value.device, torch.promote_types(weight.dtype, value.dtype)))

    def unembed(self) -> torch.Tensor:
        """[d_vocab d_model], as the model holds it; a tied head is the embedding."""
        return self._by_slot.get("unembed", self._by_slot["embed"]).detach()

    def layer_scalars(self) -> list[float]:
        """One factor for each block, by which its whole stream is multiplied at its end."""
        slots = [f"layers.{i}.layer_scalar" for i in range(self._n_layers)]
        scalars: list[float] = torch.cat([self._by_slot[slot].double() for slot in slots]).tolist()
        return scalars

    def later_scalars(self, stop: int) -> list[float]:
        """[l]: what a part added in block l has been multiplied by when it enters block stop."""
        later = [1.0] * (self._n_layers + 1)
        scalars = self.layer_scalars()
        for layer in reversed(range(stop)):
            later[layer] = later[layer + 1] * scalars[layer]
        return later


def layer_index(cache: CachedValues, layer: int | None, mlp_input: bool = False) -> int:
    """0 … n_layers; None and -1 are n_layers, the stream that is unembedded."""
    n_layers = cache.n_layers
    index = n_layers if layer is None or layer == -1 else layer
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index <= n_layers:
        raise ArgumentError(
            f"layer is {layer!r}; wanted 0 to {n_layers}, or -1 or None for the end of the stream"
        )
    if mlp_input and index == n_layers:
        raise ArgumentError(
            f"mlp_input=True with layer={layer!r}: there is no MLP after the last block; wanted a "
            f"layer of 0 to {n_layers - 1}"
        )
    return index


def stream_name(cache: CachedValues, layer: int, mlp_input: bool = False) -> str:
    """The name of the stream that enters a block (or its MLP, or the final norm)."""
    if mlp_input:
        return f"blocks.{layer}.hook_resid_mid"
    end = f"blocks.{layer - 1}.hook_resid_post"
    if layer == cache.n_layers:
        return end
    # A run with stop_at_layer ends with resid_post; any other may have been edited at resid_pre.
    stopped = all((layer_of(name) or 0) < layer for name in cache)
    return end if stopped and end in cache else f"blocks.{layer}.hook_resid_pre"


@dataclass(frozen=True)
class Norm:
    """A norm as the run applied it: x / scale · gain."""

    name: str  # "ln_final", "blocks.3.ln1"
    slot: str  # of its gain

    @classmethod
    def at(cls, cache: CachedValues, layer: int, mlp_input: bool) -> Norm:
        """The norm that the stream into a block (or its MLP, or the end) goes through."""
        if layer == cache.n_layers:
            return cls("ln_final", "ln_final")
        return cls.of_block(layer, "ln2" if mlp_input else "ln1")

    @classmethod
    def of_block(cls, layer: int, part: str) -> Norm:
        """A norm of a block by its prefix: "ln1_post", "ln2_post" …; the expert ones too."""
        slot = f"moe.{part}" if part in ("ln2_dense_post", "ln2_moe_post") else part
        return cls(f"blocks.{layer}.{part}", f"layers.{layer}.{slot}")

    @property
    def scale_name(self) -> str:
        """The name of the recorded root-mean-square."""
        return f"{self.name}.hook_scale"

    def scale(self, cache: CachedValues, cut: Cut) -> torch.Tensor:
        """The recorded scale [batch pos 1] at the chosen positions, wide."""
        return wide(cut.apply(cache[self.scale_name], -2))
