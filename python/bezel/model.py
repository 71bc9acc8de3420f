"""What every part of a Bridge stands on: the core's model, its plan as data, its tokenizer."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch

from bezel import _C, tree
from bezel.names import HookPoint, points_of
from bezel.processors import ProcessorSource

PathName: TypeAlias = Literal["automatic", "open"]


class Model:
    """The core's model with its tokenizer.

    Attributes:
        cfg: The model as plain data: `cfg.n_layers`, `cfg.layers[3].attention.d_head` …
        tokenizer: transformers' tokenizer, or None; token ids always work.
    """

    def __init__(
        self,
        core: _C.Bridge,
        tokenizer: Any | None,
        path: PathName,
        name: str,
        processor: ProcessorSource | None = None,
    ) -> None:
        self._core = core
        self._path = _C.Path.__members__[path]
        self._name = name
        self.cfg: _C.ModelSpec = core.spec
        self.tokenizer = tokenizer
        self._processor_source = processor or ProcessorSource()

    @property
    def processor(self) -> Any | None:
        """Transformers' processor of the checkpoint, or None; loaded when it is first asked for.

        Example:
            >>> b.processor is None  # a checkpoint of text alone
            True
        """
        return self._processor_source.get()

    @processor.setter
    def processor(self, processor: Any | None) -> None:
        self._processor_source = ProcessorSource(given=processor)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the model computes in."""
        return self._core.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._core.device

    @property
    def n_parameters(self) -> int:
        """Elements of all weights; a tied head counts once."""
        return self._core.n_parameters

    def named_weights(self) -> list[tuple[str, torch.Tensor]]:
        """Every weight by name ("layers.3.attention.qkv"), the model's own memory.

        Returns:
            (name, tensor) pairs; a tied head is "embed" alone. Projections that read the same
            input stand below each other in one matrix [rows d_model]: q, k, v in "attention.qkv"
            (only q where keys and values are shared; no v where K == V), gate and up in
            "mlp.gate_up".

        Example:
            >>> b = bezel.Bridge.from_pretrained("tests/data/nano", trainable=True)
            >>> optimizer = torch.optim.SGD([w for _, w in b.named_weights()], lr=1e-3)
        """
        return self._core.named_weights()

    def hook_points(self) -> list[HookPoint]:
        """Every named value of this model, in the order in which a run computes them.

        Example:
            >>> b.hook_points()[0].name
            'hook_tokens'
        """
        return points_of(self._core)

    def __repr__(self) -> str:
        return tree.text(self._core, self._name)
