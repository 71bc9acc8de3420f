"""Images and sound in a model that is otherwise held layer by layer.

The encoders and projectors are small beside the text model: they are in memory together, for as
long as the streams begin. Everything up to the first layer is transformers' own forward.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from bezel.reference.media import reference_arguments

_PARTS = ("vision_tower", "embed_vision", "audio_tower", "embed_audio")


class Begun(NamedTuple):
    """What transformers hands to the text model.

    Attributes:
        hidden: [batch pos d_model]; the features stand in their places.
        ple: The token part of per-layer inputs [batch pos layer d_ple], or None.
        masks: By the kind of layer.
    """

    hidden: torch.Tensor
    ple: torch.Tensor | None
    masks: dict[str, torch.Tensor]


class _ReachedTextError(Exception):
    """Ends transformers' forward where the text model would begin."""

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__()
        self.given = given


def begin_with_media(model: Any, inputs: dict[str, torch.Tensor], cache: Any) -> Begun:
    """Runs a multimodal model up to its text model."""
    arguments = reference_arguments(model, inputs)

    def reached(**given: Any) -> None:
        raise _ReachedTextError(given)

    text = model.model.language_model
    text.forward = reached
    try:
        model.model(**arguments, past_key_values=cache, use_cache=cache is not None)
    except _ReachedTextError as end:
        given = end.given
        return Begun(given["inputs_embeds"], given.get("per_layer_inputs"), given["attention_mask"])
    finally:
        del text.forward
    raise AssertionError("transformers' forward did not reach its text model")


@contextlib.contextmanager
def encoders_in_memory(
    model: Any, load: Callable[[nn.Module, str], None], dtype: torch.dtype
) -> Iterator[None]:
    """Gives the parts of a model on the meta device their tensors, for the length of the block.

    Args:
        model: transformers' own.
        load: Fills a module, whose name in the model is the second argument.
        dtype: Of the model: buffers that no file holds are computed in it, as in a whole model.
    """
    inner = model.model
    empty = {
        part: getattr(inner, part) for part in _PARTS if getattr(inner, part, None) is not None
    }
    try:
        for part, module in empty.items():
            setattr(inner, part, _made(module, dtype))
            load(getattr(inner, part), f"model.{part}.")
        yield
    finally:
        for part, module in empty.items():
            setattr(inner, part, module)


def _made(module: Any, dtype: torch.dtype) -> Any:
    """A module of the same kind; the buffers that no file holds have their values.

    As in a whole model, they are made in the model's dtype and filled with what float32 computes.
    """
    if not any(map(_computes_buffers, module.modules())):
        return copy.deepcopy(module)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        made = type(module)(module.config).eval()
    finally:
        torch.set_default_dtype(usual)
    for part in filter(_computes_buffers, made.modules()):
        made._init_weights(part)
    return made


def _computes_buffers(module: nn.Module) -> bool:
    return bool(module._non_persistent_buffers_set)
