"""The transformers model of a checkpoint, held whole or one decoder layer at a time.

Both give the same bits; a model that is held layer by layer needs the memory of one layer, of the
embeddings of the tokens at hand, and of a part of the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from bezel.errors import ModelMismatchError, UnsupportedError
from bezel.reference.cases import Case
from bezel.reference.checkpoint import Checkpoint
from bezel.reference.head import HEAD, Block, blocks_of
from bezel.reference.media import capture_media, reference_arguments
from bezel.reference.recorder import Values
from bezel.reference.values import capture

# What shows scores and patterns; the audio encoder reads the masks of "eager" inverted.
_ATTENTION = {"": "eager", "text_config": "eager", "vision_config": "eager", "audio_config": "sdpa"}


@dataclass
class Stream:
    """One batch on its way through a model, by itself or step after step of a generation.

    Attributes:
        tokens: int64 [batch pos]; in later steps of a generation [batch 1].
        attention_mask: [batch pos], or of all positions so far.
        positions: Of the tokens, as they are.
        media: Forward arguments of the first step, in transformers' names.
        cache: transformers' keys and values of the tokens so far; None outside a generation.
    """

    tokens: torch.Tensor
    attention_mask: torch.Tensor
    positions: torch.Tensor
    media: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)
    cache: Any = field(default=None, repr=False)

    @classmethod
    def of(cls, case: Case, cache: Any = None) -> Stream:
        """A whole case."""
        return cls(case.tokens, case.attention_mask, case.positions, case.media, cache)

    def inputs(self, device: torch.device) -> dict[str, torch.Tensor]:
        """As transformers' forward takes them."""
        given = {
            "input_ids": self.tokens,
            "attention_mask": self.attention_mask,
            "position_ids": self.positions,
            **self.media,
        }
        return {key: value.to(device) for key, value in given.items()}


class Part(NamedTuple):
    """Some values of one stream.

    Attributes:
        stream: Its index.
        values: By name.
        block: Which positions of it, where the values are those of head.HEAD; otherwise None, and
            all.
    """

    stream: int
    values: Values
    block: Block | None = None


class ReferenceModel(Protocol):
    """What the two ways of holding a model can do."""

    def values(self, streams: list[Stream]) -> Iterator[Part]:
        """Values by name, for each stream in parts; those of the head last, in blocks."""

    def next_logits(self, streams: list[Stream]) -> list[torch.Tensor]:
        """The logits [batch d_vocab] of each stream's last position."""

    def new_cache(self) -> Any:
        """An empty cache for one stream."""


def architecture_of(checkpoint: Checkpoint) -> Any:
    """Transformers' class of the checkpoint. Raises UnsupportedError where it has none."""
    import transformers

    names = checkpoint.config.get("architectures") or ["?"]
    if not names[0].startswith("Gemma4") or not hasattr(transformers, names[0]):
        raise UnsupportedError(
            f"{checkpoint.folder}: config.json says architectures = {names}; wanted a Gemma 4 "
            f"class that transformers {transformers.__version__} has"
        )
    return getattr(transformers, names[0])


def implementations(checkpoint: Checkpoint) -> dict[str, Any]:
    """Arguments of transformers' constructors: of which code attention and experts are."""
    parts = {
        part: kind for part, kind in _ATTENTION.items() if not part or checkpoint.config.get(part)
    }
    return {"attn_implementation": parts, "experts_implementation": "eager"}


class WholeModel:
    """All weights in memory; transformers runs the model."""

    def __init__(
        self, checkpoint: Checkpoint, dtype: torch.dtype, rounded: bool, device: torch.device
    ) -> None:
        """`rounded` rounds the weights to bfloat16 before they become `dtype`."""
        model, report = architecture_of(checkpoint).from_pretrained(
            checkpoint.folder, dtype=dtype, output_loading_info=True, local_files_only=True,
            ignore_mismatched_sizes=True, **implementations(checkpoint),
        )  # fmt: skip
        if missing := sorted(report["missing_keys"]):
            raise ModelMismatchError(f"{checkpoint.folder}: tensors are missing: {missing[:5]}")
        if other := sorted(report["mismatched_keys"]):  # (name, shape got, shape wanted)
            raise ModelMismatchError(
                f"{checkpoint.folder}: shapes are not the config's: {other[:5]}"
            )
        if rounded:
            round_to_bfloat16(model)
        self.model = model.to(device).eval()
        self.device = device

    @torch.no_grad()
    def values(self, streams: list[Stream]) -> Iterator[Part]:
        """Everything of one stream, then of the next."""
        for i, stream in enumerate(streams):
            inputs = stream.inputs(self.device)
            found = (
                capture_media(self.model, inputs) if stream.media else capture(self.model, **inputs)
            )
            head = {name: found.pop(name) for name in HEAD}
            yield Part(i, {name: value.cpu() for name, value in found.items()})
            del found
            for block in blocks_of(*head["hook_logits"].shape):
                part = {name: value[:, block.places].cpu() for name, value in head.items()}
                yield Part(i, part, block)

    @torch.no_grad()
    def next_logits(self, streams: list[Stream]) -> list[torch.Tensor]:
        """Runs each stream with its cache, which grows."""
        return [
            self.model(
                **next_arguments(self.model, stream, self.device),
                past_key_values=stream.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1].cpu()
            for stream in streams
        ]  # fmt: skip

    def new_cache(self) -> Any:
        """An empty cache for one stream."""
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config.get_text_config())


def next_arguments(model: Any, stream: Stream, device: torch.device) -> dict[str, Any]:
    """Of a step of a generation: media stand in its first."""
    inputs = stream.inputs(device)
    return reference_arguments(model, inputs) if stream.media else inputs


@torch.no_grad()
def round_to_bfloat16(model: nn.Module) -> None:
    """Rounds every stored tensor, in place."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.bfloat16())
