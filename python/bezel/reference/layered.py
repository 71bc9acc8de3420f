"""The transformers model of a checkpoint, one decoder layer's weights at a time.

The modules are those of transformers, made on the meta device; a layer's tensors are read from the
safetensors files when its turn comes, all streams pass through it, and it is let go. The loop over
the layers is written after `Gemma4TextModel.forward`; tests hold it to the same bits.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
from collections import UserDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bezel.errors import ModelMismatchError
from bezel.reference.checkpoint import DTYPES, Checkpoint
from bezel.reference.head import Block, blocks_of, rows_at_once
from bezel.reference.layered_media import begin_with_media, encoders_in_memory
from bezel.reference.media import completed_tower_values
from bezel.reference.models import Part, Stream, architecture_of, implementations
from bezel.reference.recorder import Recorder, Values, text_model_of
from bezel.reference.towers import MediaRecorder
from bezel.reference.values import complete_layer

_HEAD_ROWS_AT_ONCE = 16384
_MEDIA = ("image", "video", "audio")


class _Rows(nn.Module):
    """A scaled embedding that reads the rows it is asked for."""

    def __init__(self, model: LayeredModel, name: str, like: Any) -> None:
        super().__init__()
        self.model, self.name, self.kind = model, name, type(like)
        self.width, self.scale = like.embedding_dim, like.scalar_embed_scale

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """[batch pos width]."""
        wanted, places = torch.unique(ids, return_inverse=True)
        rows = self.model.tensor(self.name, wanted.tolist())
        few = self.kind(len(rows), self.width, None, embed_scale=self.scale)
        few.load_state_dict({"weight": rows}, assign=True)
        found: torch.Tensor = few(places)
        return found

    @property
    def weight(self) -> _Rows:
        """Stands for the tensor where a row of it is looked up."""
        return self

    def __getitem__(self, at: tuple[int, slice]) -> torch.Tensor:
        row, columns = at
        return self.model.tensor(self.name, [row])[0, columns]


@dataclass
class _Passage:
    """What a stream carries from layer to layer."""

    stream: Stream
    hidden: torch.Tensor
    arguments: dict[str, Any]  # of a layer, but masks and rotations
    ple: torch.Tensor | None
    masks: dict[str, torch.Tensor]
    rotations: dict[str, Any]


class LayeredModel:
    """Reads weights as they are needed; see models.ReferenceModel."""

    def __init__(
        self, checkpoint: Checkpoint, dtype: torch.dtype, rounded: bool, device: torch.device
    ) -> None:
        """`rounded` rounds the weights to bfloat16 before they become `dtype`."""
        import transformers

        self.checkpoint, self.dtype = checkpoint, dtype
        self.rounded, self.device = rounded, device
        kind = architecture_of(checkpoint)
        config = transformers.AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True)
        with torch.device("meta"):
            self.model = kind._from_config(config, **implementations(checkpoint)).eval()
        self.text: Any = text_model_of(self.model)
        self.config = self.text.config
        is_wrapped = self.text is not self.model.model
        fields = [f"{kind}_token_id" for kind in _MEDIA if is_wrapped]
        self.media_ids = [i for field in fields if (i := getattr(config, field, None)) is not None]
        self.modeling = sys.modules[type(self.text).__module__]
        self.prefix = checkpoint.text_prefix()
        self.stored = self._stored_names()
        self._load_ends()

    def _load_ends(self) -> None:
        """Everything of the text model but its layers, embeddings and head."""
        text = self.text
        for name in ("embed_tokens", "embed_tokens_per_layer"):
            if hasattr(text, name):
                rows = _Rows(self, f"{self.prefix}{name}.weight", getattr(text, name))
                setattr(text, name, rows)
        for name in ("per_layer_model_projection", "per_layer_projection_norm", "norm"):
            if hasattr(text, name):
                self._load(getattr(text, name), f"{self.prefix}{name}.")
        text.rotary_emb = type(text.rotary_emb)(self.config).to(self.device)
        tied = "lm_head.weight" not in self.checkpoint.tensors
        if tied and not self.checkpoint.config.get("tie_word_embeddings", True):
            self.checkpoint.wanted("lm_head.weight")
        tied = tied or self.checkpoint.config.get("tie_word_embeddings", True)
        self.head = f"{self.prefix}embed_tokens.weight" if tied else "lm_head.weight"

    def _stored_names(self) -> dict[str, str]:
        """What the checkpoint calls the tensors of the model."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming, rename_source_key

        renamings = [
            change
            for change in get_model_conversion_mapping(self.model)
            if isinstance(change, WeightRenaming)
        ]
        return {rename_source_key(name, renamings, [])[0]: name for name in self.checkpoint.tensors}

    def tensor(self, name: str, rows: slice | list[int] | None = None) -> torch.Tensor:
        """A tensor of the checkpoint, or rows of it, in this model's dtype."""
        value = self.checkpoint.read(name, rows)
        if self.rounded:
            value = value.bfloat16()
        return value.to(self.dtype).to(self.device)

    def _load(self, module: nn.Module, prefix: str) -> None:
        """Gives a module its tensors. Raises ModelMismatchError for those that are missing."""
        state = {}
        for name, like in module.state_dict().items():
            full = self.stored.get(prefix + name, prefix + name)
            stored = self.checkpoint.wanted(full)
            if stored.shape != tuple(like.shape) or stored.dtype not in DTYPES:
                raise ModelMismatchError(
                    f"{stored.file}: {full} is {stored.dtype} {list(stored.shape)}; "
                    f"wanted floats {list(like.shape)}"
                )
            state[name] = self.tensor(full)
        module.load_state_dict(state, assign=True)

    def _layer(self, i: int) -> Any:
        layer = copy.deepcopy(self.text.layers[i])
        self._load(layer, f"{self.prefix}layers.{i}.")
        return layer

    @torch.no_grad()
    def values(self, streams: list[Stream]) -> Iterator[Part]:
        """All streams through one part of the model, then through the next."""
        recorders = [
            (MediaRecorder if stream.media else Recorder)(self.model, *stream.tokens.shape)
            for stream in streams
        ]
        passages = []
        with self._encoders(streams):
            for k, (stream, recorder) in enumerate(zip(streams, recorders, strict=True)):
                passages.append(self._begin_watched(stream, recorder))
                yield Part(k, self._taken(recorder))
        for i in range(len(self.text.layers)):
            layer = self._layer(i)
            for k, (passage, recorder) in enumerate(zip(passages, recorders, strict=True)):
                with recorder.attached(functools.partial(recorder.watch_layer, i, layer)):
                    self._through(i, layer, passage)
                complete_layer(recorder.values, i, layer)
                yield Part(k, self._taken(recorder))
            del layer  # before the next one is read
        normed = []
        for k, (passage, recorder) in enumerate(zip(passages, recorders, strict=True)):
            with recorder.attached(functools.partial(recorder.norm, self.text.norm, "ln_final")):
                normed.append(self.text.norm(passage.hidden))
            yield Part(k, self._taken(recorder))
        yield from self._head_values(normed)

    def _head_values(self, normed: list[torch.Tensor]) -> Iterator[Part]:
        """In groups of blocks that hold as many positions as one block may: each reads the head."""
        for group in _groups([x.shape[:2] for x in normed], self.config.vocab_size):
            found = self._unembed([normed[k][:, block.places] for k, block in group])
            for i, (k, block) in enumerate(group):
                unembed, found[i] = found[i], torch.empty(0)
                values = {"hook_unembed": unembed, "hook_logits": self._softcapped(unembed)}
                yield Part(k, {name: value.cpu() for name, value in values.items()}, block)

    @staticmethod
    def _taken(recorder: Recorder) -> Values:
        values, recorder.values = recorder.values, {}
        return {name: value.cpu() for name, value in values.items()}

    @torch.no_grad()
    def next_logits(self, streams: list[Stream]) -> list[torch.Tensor]:
        """Runs all streams with their caches, which grow."""
        with self._encoders(streams):
            passages = [self._begin(stream) for stream in streams]
        for i in range(len(self.text.layers)):
            layer = self._layer(i)
            for passage in passages:
                self._through(i, layer, passage)
            del layer  # before the next one is read
        last = [self.text.norm(passage.hidden)[:, -1:] for passage in passages]
        return [self._softcapped(found)[:, -1].cpu() for found in self._unembed(last)]

    def new_cache(self) -> Any:
        """An empty cache for one stream."""
        from transformers import DynamicCache

        return DynamicCache(config=self.config)

    def _encoders(self, streams: list[Stream]) -> contextlib.AbstractContextManager[None]:
        if not any(stream.media for stream in streams):
            return contextlib.nullcontext()
        return encoders_in_memory(self.model, self._load, self.dtype)

    def _begin_watched(self, stream: Stream, recorder: Recorder) -> _Passage:
        """Everything up to the first layer, and its values."""
        parts = [recorder.watch_embeddings]
        if isinstance(recorder, MediaRecorder):
            parts.append(recorder.watch_encoders)
        with recorder.attached(*parts):
            passage = self._begin(stream)
        if isinstance(recorder, MediaRecorder):
            recorder.values |= completed_tower_values(recorder)
        recorder.values["hook_tokens"] = stream.tokens.clone()
        if passage.ple is not None:
            recorder.put("ple.hook_inputs", passage.ple)
        return passage

    def _begin_with_media(self, stream: Stream) -> _Passage:
        """By transformers' own forward."""
        inputs = stream.inputs(self.device)
        hidden, ple, masks = begin_with_media(self.model, inputs, stream.cache)
        if ple is not None:
            ple = self.text.project_per_layer_inputs(hidden, ple)
        return self._passage(stream, hidden, ple, masks)

    def _begin(self, stream: Stream) -> _Passage:
        """Embeddings, per-layer inputs, masks and rotations."""
        if stream.media:
            return self._begin_with_media(stream)
        text = self.text
        tokens, mask, positions = (
            x.to(self.device) for x in (stream.tokens, stream.attention_mask, stream.positions)
        )
        for media in self.media_ids:  # a lone placeholder is embedded as padding
            tokens = tokens.masked_fill(tokens == media, self.config.pad_token_id)
        embeds = text.embed_tokens(tokens)
        ple = None
        if getattr(text, "hidden_size_per_layer_input", 0):
            ple = text.project_per_layer_inputs(embeds, text.get_per_layer_inputs(tokens, None))
        wanted = {
            "config": self.config,
            "inputs_embeds": embeds,
            "attention_mask": mask,
            "past_key_values": stream.cache,
            "position_ids": positions,
        }
        masks = {
            "full_attention": self.modeling.create_causal_mask(**wanted),
            "sliding_attention": self.modeling.create_sliding_window_causal_mask(**wanted),
        }
        return self._passage(stream, embeds, ple, masks)

    def _passage(
        self, stream: Stream, embeds: torch.Tensor, ple: torch.Tensor | None,
        masks: dict[str, torch.Tensor],
    ) -> _Passage:  # fmt: skip
        positions = stream.positions.to(self.device)
        rotations = {
            kind: self.text.rotary_emb(embeds, positions, kind)
            for kind in set(self.config.layer_types)
        }
        arguments = {
            "shared_kv_states": UserDict(),
            "position_ids": positions,
            "past_key_values": stream.cache,
        }
        return _Passage(stream, embeds, arguments, ple, masks, rotations)

    def _through(self, i: int, layer: Any, passage: _Passage) -> None:
        kind = self.config.layer_types[i]
        passage.hidden = layer(
            passage.hidden,
            *(() if passage.ple is None else (passage.ple[:, :, i, :],)),
            position_embeddings=passage.rotations[kind],
            attention_mask=passage.masks[kind],
            **passage.arguments,
        )

    def _unembed(self, hidden: list[torch.Tensor]) -> list[torch.Tensor]:
        """A part of the head at a time."""
        d_vocab = self.config.vocab_size
        found = [x.new_empty(*x.shape[:-1], d_vocab) for x in hidden]
        for begin in range(0, d_vocab, _HEAD_ROWS_AT_ONCE):
            places = slice(begin, begin + _HEAD_ROWS_AT_ONCE)
            rows = self.tensor(self.head, places)
            for logits, x in zip(found, hidden, strict=True):
                # A parameter, as the model's: torch picks the product by requires_grad.
                logits[..., places] = nn.functional.linear(x, nn.Parameter(rows))
        return found

    def _softcapped(self, logits: torch.Tensor) -> torch.Tensor:
        cap = self.config.final_logit_softcapping
        return logits if cap is None else torch.tanh(logits / cap) * cap


def _groups(shapes: list[torch.Size], d_vocab: int) -> Iterator[list[tuple[int, Block]]]:
    """Blocks of streams [batch pos], in order, together as large as one block may be or alone."""
    group: list[tuple[int, Block]] = []
    n_rows = 0
    for k, (batch, length) in enumerate(shapes):
        for block in blocks_of(batch, length, d_vocab):
            rows = batch * (block.end - block.begin)
            if group and n_rows + rows > rows_at_once(d_vocab):
                yield group
                group, n_rows = [], 0
            group.append((k, block))
            n_rows += rows
    yield group
