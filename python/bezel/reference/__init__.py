"""The Hugging Face reference, run once and kept in a file that verification reads.

>>> bezel.capture_reference("tests/data/nano", "ref.h5")
PosixPath('ref.h5')
>>> bundle = bezel.reference.read("ref.h5")
>>> list(bundle.outcomes)  # doctest: +NORMALIZE_WHITESPACE
['prose', 'code', 'digits', 'chat', 'non_latin', 'repeated', 'long', 'padded_left',
 'padded_right']
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bezel.errors import ArgumentError
from bezel.loading import find_device, find_folder
from bezel.reference.sampling import Sample, check_sample

if TYPE_CHECKING:
    from bezel.reference.bundle import Bundle

__all__ = ["Sample", "capture_reference", "read"]
NEW_TOKENS = 16


def capture_reference(  # noqa: PLR0913  each has a default
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    sample: Sample | None = None,
    new_tokens: int = NEW_TOKENS,
    layer_by_layer: bool | None = None,
    verbose: bool = True,
) -> Path:
    """Runs the transformers model of a checkpoint and writes what it computes to one file.

    Nine inputs (prose, code, digits, a chat turn, other scripts, repetition, more tokens than the
    sliding window, batches padded on either side), and where the model has the parts for them five
    more (an image, several of different sizes, one across the window's end, a video, two clips of
    sound); of each every named value, logits, loss, the
    error of bfloat16, and the greedy continuation. The layout stands in reference/writer.py.

    Args:
        model: A folder, or a hub id (the Hugging Face cache first).
        out: The file; one of that name is replaced when the new one is whole.
        device: Where transformers runs.
        sample: How much to keep of each value. None: everything, or where that would be more than
            512 MiB, `Sample()`.
        new_tokens: Length of the greedy continuations.
        layer_by_layer: True holds one decoder layer's weights at a time, False the whole model;
            None: True beyond 1 GiB of weights. The values are the same.
        verbose: A progress bar for what takes more than a second.

    Returns:
        `out`.

    Raises:
        CheckpointError: The checkpoint cannot be read, or is not a Gemma 4.
        StoreError: The file could not be written; nothing is left behind.
        ArgumentError: An argument outside its range, a package is missing, or a build without the
            store.

    Example:
        >>> bezel.capture_reference("tests/data/nano", "ref.h5")
        PosixPath('ref.h5')
    """
    if new_tokens < 1:
        raise ArgumentError(f"new_tokens is {new_tokens}; wanted at least 1")
    if sample is not None:
        check_sample(sample)
    path = Path(out)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ArgumentError(f"{path} cannot be written: wanted a file name in a folder that exists")
    capturing, writer = _module("capturing"), _module("writer")
    folder = find_folder(os.fspath(model), None, local_files_only=False)
    options = capturing.Options(find_device(device), sample, new_tokens, layer_by_layer, verbose)
    writer.write(path, capturing.capture(folder, options))
    return path


def read(path: str | os.PathLike[str]) -> Bundle:
    """A reference file in memory, after its trailer, kind, schema and shapes were checked.

    Args:
        path: A file that `capture_reference` wrote. What is not as written is refused.

    Raises:
        StoreError: The file is cut short, damaged, of another schema or another program's.

    Example:
        >>> path = bezel.capture_reference("tests/data/nano", "ref.h5")
        >>> prose = bezel.reference.read(path).outcomes["prose"]
        >>> prose.acts["blocks.3.attn.hook_z"].value.shape  # [batch pos head d_head]
        torch.Size([1, 15, 4, 32])
    """
    found: Bundle = _module("reader").read(Path(path))
    return found


def _module(name: str) -> Any:
    """Its packages are wanted where references are made or read, not before."""
    from bezel.dump import want_store

    want_store()
    try:
        for package in ("xxhash", "transformers", "safetensors"):
            importlib.import_module(package)
        return importlib.import_module(f"bezel.reference.{name}")
    except ImportError as error:
        raise ArgumentError(
            "references need transformers, safetensors and xxhash: pip install "
            f'"bezel[reference]" ({error})'
        ) from error
