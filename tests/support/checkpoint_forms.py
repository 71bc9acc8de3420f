"""The other valid forms of a checkpoint: each function rewrites a folder in place.

The values stay those of the original, so its reference stays the reference of every form.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from support.fixtures import recipe_of

Tensors = dict[str, torch.Tensor]
_DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "F16": torch.float16}
_LAYER = re.compile(r"(.*\.)?layers\.(\d+)\.")


def copy_of(folder: Path, target: Path) -> Path:
    """A copy of the folder to rewrite; an old one is replaced."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    return target


def read_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def text_part(config: dict[str, Any]) -> dict[str, Any]:
    """The text fields: nested in multimodal configs, at the top in text-only ones."""
    part: dict[str, Any] = config.get("text_config", config)
    return part


def load_tensors(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def stored_dtypes(folder: Path) -> set[torch.dtype]:
    """The dtypes of the floating tensors in all files of the folder, read from their headers."""
    found = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        found |= {_DTYPES[kind] for kind in kinds if kind in _DTYPES}
    return found


def save_tensors(folder: Path, tensors: Tensors) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _text_prefix(tensors: Tensors) -> str:
    found = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    return found[: -len("embed_tokens.weight")]


def rewrite_config_as_published(folder: Path) -> None:
    """Two fields for the full layers in place of `per_layer_config`, as in the published files."""
    config = read_config(folder)
    text = text_part(config)
    full = text.pop("per_layer_config")
    overrides = list(full.values())
    assert all(entry == overrides[0] for entry in overrides)
    text["global_head_dim"] = overrides[0]["head_dim"]
    # Without K == V the count does not apply: publish one that would be wrong if it were used.
    misleading = None if text["attention_k_eq_v"] else 1
    text["num_global_key_value_heads"] = overrides[0].get("num_key_value_heads", misleading)
    vision = config.get("vision_config") or {}
    if "rope_parameters" in vision:
        vision["rope_parameters"]["rope_type"] = "default"
    write_config(folder, config)


def shard(folder: Path, n_shards: int = 3) -> None:
    """Several files and an index; neighbouring tensors land in different files."""
    tensors = load_tensors(folder)
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for i in range(n_shards):
        file = f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[i::n_shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def join_projections(folder: Path) -> None:
    """`qkv_proj` and `gate_up_proj`: rows of q, then k, then v; of gate, then up.

    Layers that lack a k or v projection (KV sharing, K == V) keep what they have apart.
    """
    tensors = load_tensors(folder)
    prefix = _text_prefix(tensors)
    for layer in sorted({m[0] for name in tensors if (m := _LAYER.match(name))}):
        if not layer.startswith(prefix):
            continue
        attention, mlp = layer + "self_attn.", layer + "mlp."
        if attention + "v_proj.weight" in tensors:
            parts = [tensors.pop(f"{attention}{x}_proj.weight") for x in "qkv"]
            tensors[attention + "qkv_proj.weight"] = torch.cat(parts)
        parts = [tensors.pop(f"{mlp}{x}_proj.weight") for x in ("gate", "up")]
        tensors[mlp + "gate_up_proj.weight"] = torch.cat(parts)
    save_tensors(folder, tensors)


def add_unused_keys_and_values(folder: Path) -> None:
    """k and v tensors on KV-sharing layers, as in the published E2B and E4B files."""
    tensors = load_tensors(folder)
    text = text_part(read_config(folder))
    prefix = _text_prefix(tensors)
    types = text["layer_types"]
    first_shared = text["num_hidden_layers"] - text["num_kv_shared_layers"]
    rng = torch.Generator().manual_seed(0)
    for i in range(first_shared, text["num_hidden_layers"]):
        donor = max(j for j in range(first_shared) if types[j] == types[i])
        for part in ("k_proj", "v_proj", "k_norm"):
            like = tensors[f"{prefix}layers.{donor}.self_attn.{part}.weight"]
            noise = torch.randn(like.shape, generator=rng).to(like.dtype)
            tensors[f"{prefix}layers.{i}.self_attn.{part}.weight"] = noise
    save_tensors(folder, tensors)


def add_explicit_head(folder: Path) -> None:
    """`lm_head.weight`, a copy of the embedding it is tied to."""
    tensors = load_tensors(folder)
    head = tensors[_text_prefix(tensors) + "embed_tokens.weight"]
    save_tensors(folder, tensors | {"lm_head.weight": head.clone()})


def untie_head(folder: Path) -> None:
    """A head of its own; the values change, so the reference does."""
    tensors = load_tensors(folder)
    embedding = tensors[_text_prefix(tensors) + "embed_tokens.weight"]
    save_tensors(folder, tensors | {"lm_head.weight": embedding.roll(1, dims=0).clone()})
    config = read_config(folder)
    config["tie_word_embeddings"] = text_part(config)["tie_word_embeddings"] = False
    write_config(folder, config)


def add_unrelated_tensors(folder: Path) -> None:
    """Names that no part of the text model has, one of them of a dtype that is not read."""
    tensors = load_tensors(folder)
    other = {
        "model.some_tower.layers.0.weight": torch.ones(3, 2),
        "optimizer.state": torch.ones(2, dtype=torch.int8),
        "empty": torch.ones(0, 4),
    }
    save_tensors(folder, tensors | other)


def wrap(folder: Path) -> None:
    """A text-only checkpoint as the text part of a multimodal one without its towers."""
    config = read_config(folder)
    top = {name: config.pop(name) for name in ("architectures", "tie_word_embeddings", "dtype")}
    top["architectures"] = ["Gemma4ForConditionalGeneration"]
    write_config(folder, top | {"model_type": "gemma4", "text_config": config})
    tensors = load_tensors(folder)
    prefix = _text_prefix(tensors)
    inner = prefix + "language_model."
    save_tensors(
        folder,
        {name.replace(prefix, inner, 1): tensor for name, tensor in tensors.items()},
    )


def as_bfloat16(folder: Path) -> None:
    """Every tensor rounded to bfloat16, as published; the values change, so the reference does."""
    tensors = load_tensors(folder)
    save_tensors(folder, {name: tensor.bfloat16() for name, tensor in tensors.items()})
    config = read_config(folder)
    config["dtype"] = text_part(config)["dtype"] = "bfloat16"
    write_config(folder, config)


def use_class_layout(folder: Path) -> None:
    """Unified checkpoints: the vision embedder's tensors under the class's own names."""
    at = "model.embed_vision."
    projection = at + "multimodal_embedder.embedding_projection"

    def renamed(name: str) -> str:
        name = name.replace(at + "embedding_projection", projection)
        return name.replace("model.vision_embedder.", at)

    save_tensors(folder, {renamed(name): value for name, value in load_tensors(folder).items()})


Form = Callable[[Path], None]
FORMS: dict[str, tuple[Form, ...]] = {
    "published_config": (rewrite_config_as_published,),
    "sharded": (shard,),
    "joint_projections": (join_projections,),
    "unused_keys_and_values": (add_unused_keys_and_values,),
    "unrelated_tensors": (add_unrelated_tensors,),
    "explicit_head": (add_explicit_head,),
    "as_published": (
        rewrite_config_as_published,
        add_unused_keys_and_values,
        add_explicit_head,
        shard,
    ),
    "wrapped": (wrap,),
    "class_layout": (use_class_layout,),
    "untied": (untie_head,),
    "bfloat16": (as_bfloat16,),
}
OTHER_VALUES = ("untied", "bfloat16")  # these have a reference of their own
_ONLY_FOR = {"wrapped": ("none",), "class_layout": ("unified",)}


def forms_of(name: str) -> list[str]:
    """The forms that the checkpoint of a recipe can take with its values unchanged."""
    wrapper = recipe_of(name).wrapper
    return [
        form
        for form in FORMS
        if form not in OTHER_VALUES and wrapper in _ONLY_FOR.get(form, (wrapper,))
    ]


def in_form(folder: Path, form: str, target: Path) -> Path:
    """A copy of the checkpoint, rewritten step by step into the named form."""
    copy_of(folder, target)
    for step in FORMS[form]:
        step(target)
    return target
