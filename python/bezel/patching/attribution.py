"""Attribution patching: every patch of a sweep at once, to first order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias, Unpack, cast

import torch

from bezel.arguments import ForwardArguments, ModelInput
from bezel.cache import ActivationCache
from bezel.cache_values import is_batched
from bezel.errors import ArgumentError
from bezel.patching.corrupted import SweepArguments
from bezel.patching.sweep import Values
from bezel.selection import NamesFilter

if TYPE_CHECKING:
    from bezel.bridge import Bridge

_WIDTHS = ("d_", "channel_", "1")  # begin the words of axes that an attribution sums over
Differentiable: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


def attribution_patch(
    model: Bridge,
    tokens: ModelInput,
    clean: Values | ModelInput,
    metric: Differentiable,
    names_filter: NamesFilter = None,
    **arguments: Unpack[SweepArguments],
) -> dict[str, torch.Tensor]:
    """How much the metric would change, to first order, if a value were patched.

    (clean - corrupted) · d metric / d value at the corrupted run, after Nanda (2023), "Attribution
    patching": two forwards and one backward instead of a run for each patch. Values of nonlinear
    paths (patterns, norms' scales, what passes through the final softcap) are linearised too.

    Args:
        model: The Bridge. Its hooks apply.
        tokens: The corrupted run: token ids [batch pos], or text.
        clean: The clean run: its cache, its ids, or its text; one row serves all.
        metric: Of the corrupted run's logits [batch pos d_vocab]; a number with a gradient.
        names_filter: Which values, as in `run_with_cache`. None is every value of a clean cache,
            or every value that is not on demand; naming few costs less.
        **arguments: Of both runs: attention_mask, position_ids, media …. Where the clean run has
            other media, give its cache.

    Returns:
        By full name: [batch pos], [batch pos head], [image patch], [batch head q_pos k_pos] …, the
        value's axes without its widths (d_model, d_head …). Values without a gradient are left
        out: ids, and those that come before the embeddings.

    Raises:
        ArgumentError: The runs' shapes differ, or the metric has no gradient.

    Example:
        >>> clean = "Of 7 and 22 , the larger is"
        >>> scores = attribution_patch(
        ...     b, "Of 7 and 4 , the larger is", clean, lambda logits: logits[0, -1, 9],
        ...     "blocks.*.attn.hook_z")
        >>> scores["blocks.3.attn.hook_z"].shape
        torch.Size([1, 9, 4])
    """
    clean_values = values_of(model, clean, names_filter, **arguments)
    corrupted = gradients(model, tokens, metric, list(clean_values), **arguments)
    axes = {point.name: point.axes for point in model.hook_points()}
    made = {}
    for name, clean_value in clean_values.items():
        if f"{name}_grad" not in corrupted:
            continue
        difference = difference_of(name, clean_value, corrupted[name])
        widths = [i for i, axis in enumerate(axes[name]) if axis.startswith(_WIDTHS)]
        product = difference * corrupted[f"{name}_grad"]
        made[name] = product.sum(widths) if widths else product
    return made


def difference_of(name: str, clean: torch.Tensor, corrupted: torch.Tensor) -> torch.Tensor:
    """What a patch adds, clean - corrupted [batch …]. Raises ArgumentError for unequal shapes."""
    if clean.shape[0] not in (1, corrupted.shape[0]) or clean.shape[1:] != corrupted.shape[1:]:
        raise ArgumentError(
            f'"{name}" is {list(clean.shape)} in the clean run and {list(corrupted.shape)} in the '
            "corrupted one; wanted equal shapes, or one clean row for all"
        )
    return clean - corrupted


def values_of(
    model: Bridge,
    run: Values | ModelInput,
    names_filter: NamesFilter,
    **arguments: Unpack[SweepArguments],
) -> dict[str, torch.Tensor]:
    """A run's values by name, with their batch axis: of a cache, or recorded now."""
    if isinstance(run, ActivationCache | Mapping):
        if names_filter is None:
            chosen = [p.name for p in model.hook_points() if p.name in run]
        else:
            chosen = list(model._dtypes(names_filter))
        if missing := [name for name in chosen if name not in run]:
            raise ArgumentError(f'the clean cache has no "{missing[0]}"; record it, or give tokens')
        is_bare = isinstance(run, ActivationCache) and not run.has_batch_dim
        return {
            name: run[name].unsqueeze(0) if is_bare and is_batched(name) else run[name]
            for name in chosen
        }
    asked = cast(ForwardArguments, {**arguments, "return_type": None})  # no head for nothing
    with torch.no_grad():
        _, cache = model.run_with_cache(run, names_filter, **asked)
    return dict(cache.items())


def gradients(
    model: Bridge,
    tokens: ModelInput,
    metric: Differentiable,
    names: list[str],
    *,
    fwd_hooks: list[tuple[str, Callable[..., torch.Tensor]]] | None = None,
    **arguments: Unpack[SweepArguments],
) -> dict[str, torch.Tensor]:
    """The values of one run, and "<name>_grad": d metric / d value. Weights keep their .grad."""
    with torch.enable_grad(), _untouched_weights(model):
        logits, cache = model.run_with_cache(
            tokens,
            names,
            fwd_hooks=fwd_hooks,
            incl_bwd=True,
            **cast(ForwardArguments, arguments),
        )
        assert isinstance(logits, torch.Tensor)
        measured = metric(logits)
        if not isinstance(measured, torch.Tensor) or measured.numel() != 1:
            raise ArgumentError("the metric of an attribution is one number, a tensor of torch")
        if not measured.requires_grad:
            raise ArgumentError("the metric has no gradient; compute it from the logits, in torch")
        torch.autograd.backward(measured.sum())
    return dict(cache.items())


@contextmanager
def _untouched_weights(model: Bridge) -> Iterator[None]:
    trained = [weight for _, weight in model.named_weights() if weight.requires_grad]
    kept = [weight.grad for weight in trained]
    for weight in trained:
        weight.grad = None
    try:
        yield
    finally:
        for weight, grad in zip(trained, kept, strict=True):
            weight.grad = grad
