"""The model that users hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from bezel import _C, loading
from bezel.errors import ArgumentError
from bezel.model import PathName
from bezel.processors import ProcessorSource
from bezel.sae_runs import SaeRuns


class Bridge(SaeRuns):
    """A Gemma 4 model whose every inner value has a name.

    Runs do not change it: calls from several threads do not see each other. What outlives a call
    is asked for by name: hooks that stand (`add_hook`), and weights that are trained. Its parts:
    model.py (what it holds), weights.py, tokens.py (text), media_inputs.py, standing_hooks.py,
    running.py (runs), encoding.py (encoders alone), generating.py, sae_runs.py (sparse
    autoencoders).

    Attributes:
        cfg: The model as plain data: `cfg.n_layers`, `cfg.layers[3].attention.d_head` …
        tokenizer: transformers' tokenizer, or None; token ids always work.
        processor: transformers' processor, or None; tensors always work.

    Example:
        >>> b = bezel.Bridge.from_pretrained("tests/data/nano")
        >>> logits, cache = b.run_with_cache("As Emma knows , the capital of France is")
        >>> b.to_string(logits[0, -1].argmax())
        'Paris'
    """

    @classmethod
    def from_pretrained(  # noqa: PLR0913  the field's own signature
        cls,
        name: str,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        tokenizer: Any | None = None,
        processor: Any | None = None,
        path: PathName = "automatic",
        trainable: bool = False,
        modalities: Iterable[str] | None = None,
    ) -> Bridge:
        """Loads a Gemma 4 checkpoint.

        Args:
            name: A local folder, or a hub id such as "google/gemma-4-E2B-it" (the Hugging Face
                cache first).
            device: "cpu" or "cuda:0" …
            dtype: torch.float32, torch.bfloat16 or torch.float64; None is the checkpoint's own.
            revision: Of a hub id.
            local_files_only: True never asks the network.
            tokenizer: Instead of the folder's own.
            processor: The same for `prepare_multimodal_inputs`.
            path: "automatic" takes library kernels where no value inside them is asked for; "open"
                computes each step by itself, always.
            trainable: True lets gradients reach the weights (`named_weights`); otherwise they are
                frozen, and only hooks and inputs of your own have gradients.
            modalities: Of "text", "vision" and "audio"; None is all that the checkpoint has. What
                is left out takes no memory; text is always there.

        Raises:
            CheckpointError: With file, field or tensor, what was found and what was expected.
            ArgumentError: For a device or path that does not exist.

        Example:
            >>> b = bezel.Bridge.from_pretrained("tests/data/nano")
        """
        if path not in _C.Path.__members__:
            raise ArgumentError(f'path is {path!r}; wanted "automatic" or "open"')
        folder = loading.find_folder(str(name), revision, local_files_only)
        core = loading.load_model(folder, dtype, device, modalities)
        if trainable:
            loading.make_trainable(core)
        if tokenizer is None:
            tokenizer = loading.load_tokenizer(folder)
        return cls(core, tokenizer, path, folder.name, ProcessorSource(folder, processor))
