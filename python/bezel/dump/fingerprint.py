"""What a dump was made with, as data: equal fingerprints make equal bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from bezel import _C

if TYPE_CHECKING:
    from bezel.bridge import Bridge


def model_fingerprint(b: Bridge) -> dict[str, Any]:
    """Of the model as it is in memory, with folded or edited weights.

    Returns:
        family, n_layers, d_model, dtype, and weights: a SHA-256 of names, dtypes, shapes, and
        XXH3-64 of the bytes.
    """
    return {
        "family": b.cfg.family,
        "n_layers": b.cfg.n_layers,
        "d_model": b.cfg.d_model,
        "dtype": str(b.dtype).removeprefix("torch."),
        "weights": digest(b.named_weights()),
    }


def digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """SHA-256 of names, dtypes, shapes, and XXH3-64 of the bytes; in whatever order they come."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda named: named[0]):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(_C.store_hash(tensor.detach().cpu()).to_bytes(8, "little"))
    return total.hexdigest()


def sae_fingerprints(b: Bridge) -> list[dict[str, Any]]:
    """Of the SAEs that are attached: place, error term, and a digest as of a model's weights."""
    found = []
    for place, attached in b._attached().items():
        weights = [(name, tensor) for name, tensor in attached.sae.state_dict().items()]
        found.append(
            {
                "place": place,
                "use_error_term": attached.use_error_term,
                "weights": digest(weights),
            }
        )
    return found


def tokenizer_fingerprint(tokenizer: Any | None) -> str | None:
    """SHA-256 of the tokenizer's own file; of its vocabulary where it has none; None without."""
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab()))
    return hashlib.sha256(text.encode()).hexdigest()


def versions() -> dict[str, str]:
    """Of what computes the values."""
    return {"bezel": _C.__version__, "torch": str(torch.__version__)}
