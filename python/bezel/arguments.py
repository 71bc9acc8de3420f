"""What a forward takes, and how it reaches the core."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypedDict

import torch
from torch.nn import functional

from bezel import _C
from bezel.cache import ActivationCache
from bezel.errors import ArgumentError
from bezel.kv_cache import KvCache
from bezel.text import PaddingSide, encode

ModelInput: TypeAlias = str | list[str] | torch.Tensor
ReturnType: TypeAlias = Literal["logits", "loss", "both"] | None
Result: TypeAlias = torch.Tensor | tuple[torch.Tensor, torch.Tensor] | None


class MediaArguments(TypedDict, total=False):
    """Images, videos and sounds, as `Bridge.prepare_multimodal_inputs` makes them."""

    mm_token_type_ids: torch.Tensor | None
    pixel_values: torch.Tensor | None
    image_position_ids: torch.Tensor | None
    pixel_values_videos: torch.Tensor | None
    video_position_ids: torch.Tensor | None
    input_features: torch.Tensor | None
    input_features_mask: torch.Tensor | None


MEDIA = tuple(MediaArguments.__annotations__)


class ForwardArguments(MediaArguments, total=False):
    """Everything that `Bridge.forward` takes beside its input."""

    return_type: ReturnType
    loss_per_token: bool
    prepend_bos: bool | None
    padding_side: PaddingSide | None
    attention_mask: torch.Tensor | None
    position_ids: torch.Tensor | None
    start_at_layer: int | None
    stop_at_layer: int | None
    logits_to_keep: int | None
    labels: torch.Tensor | None
    tokens: torch.Tensor | None
    start_state: dict[str, torch.Tensor] | ActivationCache | None
    kv_cache: KvCache | None


def core_input(
    input: ModelInput, arguments: ForwardArguments, tokenizer: Any | None, spec: _C.ModelSpec
) -> _C.Input:
    """The input as the core takes it. Raises ArgumentError that names the argument."""
    _refuse_unknown(arguments)
    made = _C.Input()
    mask = arguments.get("attention_mask")
    if isinstance(input, torch.Tensor):
        _refuse_arguments_of_text(arguments)
        if input.is_floating_point():
            made.embeddings = input
        else:
            made.tokens = input.unsqueeze(0) if input.dim() == 1 else input
    else:
        encoded = encode(
            input,
            tokenizer,
            spec,
            arguments.get("prepend_bos"),
            arguments.get("padding_side"),
        )
        made.tokens = encoded.tokens
        mask = encoded.attention_mask if mask is None else mask
    tokens = arguments.get("tokens")
    if tokens is not None:
        if made.tokens is not None:
            raise ArgumentError("tokens= belongs to a float input; this input has ids itself")
        made.tokens = tokens
    if mask is not None:
        _set(made, "attention_mask", mask, "a tensor [batch pos]")
    for name, wanted in _FIELDS.items():
        if (value := arguments.get(name)) is not None:
            _set(made, name, value, wanted)
    return made


def core_media(arguments: MediaArguments) -> _C.Input:
    """Media without a text around them, as the core takes them."""
    made = _C.Input()
    for name, value in arguments.items():
        if value is not None:
            _set(made, name, value, _FIELDS[name])
    return made


def continued(prompt: _C.Input, n_new: int) -> _C.Input:
    """A prompt of ids with as many tokens more behind it, and its media."""
    made = _C.Input()
    for field in ("tokens", *(_CORE_NAMES.get(name, name) for name in MEDIA)):
        given = getattr(prompt, field)
        if given is not None:
            by_token = field in ("tokens", "token_types")
            setattr(made, field, functional.pad(given, (0, n_new)) if by_token else given)
    return made


# Arguments that the core takes as they are, and what they should be.
_FIELDS = {
    "position_ids": "a tensor [batch pos]",
    "mm_token_type_ids": "a tensor [batch pos]",
    "pixel_values": "a tensor [image patch d_patch]",
    "image_position_ids": "a tensor [image patch 2]",
    "pixel_values_videos": "a tensor [video frame patch d_patch]",
    "video_position_ids": "a tensor [video frame patch 2]",
    "input_features": "a tensor [audio frame mel]",
    "input_features_mask": "a tensor [audio frame]",
    "start_at_layer": "an int",
    "stop_at_layer": "an int",
    "logits_to_keep": "an int",
    "start_state": "tensors by name",
    "kv_cache": "a bezel.KvCache",
}
_CORE_NAMES = {"mm_token_type_ids": "token_types"}


def _set(made: _C.Input, name: str, value: Any, wanted: str) -> None:
    if isinstance(value, ActivationCache):
        value = dict(value.items())
    if isinstance(value, KvCache):
        value = value._core
    try:
        setattr(made, _CORE_NAMES.get(name, name), value)
    except TypeError:
        raise ArgumentError(f"{name} is a {type(value).__name__}; wanted {wanted}") from None


def _refuse_unknown(arguments: ForwardArguments) -> None:
    unknown = [name for name in arguments if name not in ForwardArguments.__annotations__]
    if unknown:
        known = ", ".join(ForwardArguments.__annotations__)
        raise TypeError(f"unknown argument {unknown[0]!r}; wanted one of {known}")


def _refuse_arguments_of_text(arguments: ForwardArguments) -> None:
    for name in ("prepend_bos", "padding_side"):
        if arguments.get(name) is not None:
            raise ArgumentError(
                f"{name}= says how text becomes tokens, and this input is a tensor; leave it out"
            )


def labels_of(made: _C.Input, arguments: ForwardArguments) -> torch.Tensor:
    """The labels [batch pos] of a loss: those given, or the tokens."""
    labels = arguments.get("labels")
    if arguments.get("stop_at_layer") is not None:
        raise ArgumentError("the loss needs logits, and stop_at_layer ends the run before them")
    if labels is None:
        if made.tokens is None:
            raise ArgumentError("the loss of a float input needs labels= (or tokens=)")
        labels = made.tokens
    keep = arguments.get("logits_to_keep")
    if keep is not None and keep != labels.shape[-1]:
        raise ArgumentError("the loss needs the logits of every position; leave logits_to_keep out")
    return labels.unsqueeze(0) if labels.dim() == 1 else labels
