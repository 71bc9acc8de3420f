"""Reads and writes SAEs as files. What is read is not trusted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch

from bezel.errors import (
    ArgumentError,
    FormatError,
    ModelMismatchError,
    ResourceLimitError,
    UnsupportedError,
)
from bezel.sae_config import SAEConfig, check_shapes

try:
    import safetensors
    from safetensors.torch import save_file
except ImportError as error:
    raise ArgumentError(f"SAE files need safetensors: pip install safetensors ({error})") from error

Shapes: TypeAlias = dict[str, list[int]]
Read: TypeAlias = tuple[SAEConfig, dict[str, str]]  # and the name here of every tensor there
_SAELENS = ("cfg.json", "sae_weights.safetensors")
_GEMMA_SCOPE_2 = ("config.json", "params.safetensors")
LAYOUTS = (_SAELENS, _GEMMA_SCOPE_2)
_MAX_JSON_BYTES = 1 << 20
_N_TOLD = 3  # folders that an error lists
_FLOATS = ("F64", "F32", "BF16", "F16")
# Where Gemma Scope 2 stands among transformers' modules → the value here.
_GEMMA_SCOPE_SITES = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "post_attention_layernorm.output": "hook_attn_out",
    "post_feedforward_layernorm.output": "hook_mlp_out",
}
# Files of old versions of SAELens hold one of these; ones, where it was not trained.
_OLD_SCALES = ("scaling_factor", "finetuning_scaling_factor")


def read(
    folder: Path, norm_scaling_factor: float | None
) -> tuple[SAEConfig, dict[str, torch.Tensor]]:
    """The SAE of a folder, in either layout. Raises CheckpointError."""
    (config, tensors), read_config = _layout(folder)
    fields, path = _Fields(folder / config), folder / tensors
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            shapes = _shapes(path, file)
            cfg, renamed = read_config(fields, shapes)
            check_shapes(cfg, {new: shapes[old] for old, new in renamed.items()}, f"{path}: ")
            weights = {new: file.get_tensor(old) for old, new in renamed.items()}
            for name in set(shapes) & set(_OLD_SCALES):
                if not bool((file.get_tensor(name) == 1).all()):
                    raise UnsupportedError(f'{path}: "{name}" is not 1 everywhere; fold it first')
    except (safetensors.SafetensorError, OSError) as error:
        raise FormatError(f"{path} is no whole safetensors file: {error}") from error
    if "log_threshold" in shapes:
        weights["threshold"] = weights["threshold"].exp()
    return cfg, _folded(fields, weights, norm_scaling_factor)


def _layout(folder: Path) -> tuple[tuple[str, str], Callable[[_Fields, Shapes], Read]]:
    """The files of a folder, and what reads the first of them."""
    for names, read_config in zip(LAYOUTS, (_saelens, _gemma_scope_2), strict=True):
        if _has_all(folder, names):
            return names, read_config
    told = f"{folder} has neither {' and '.join(_SAELENS)} (SAELens) nor " + (
        f"{' and '.join(_GEMMA_SCOPE_2)} (Gemma Scope 2)"
    )
    if not folder.is_dir():
        told += "; it is no folder. From the hub: SAE.from_pretrained(id, subfolder=…)"
    elif inner := _inner_saes(folder):
        told += f"; SAEs are in {', '.join(inner)}"
    raise FormatError(told)


def has_layout(folder: Path) -> bool:
    """True where the files of an SAE are in a folder."""
    return any(_has_all(folder, names) for names in LAYOUTS)


def _has_all(folder: Path, names: tuple[str, str]) -> bool:
    return all((folder / name).is_file() for name in names)


def _inner_saes(folder: Path) -> list[str]:
    """Some folders inside, one or two steps down, that hold an SAE."""
    found = {
        config.parent
        for names in LAYOUTS
        for depth in ("*", "*/*")
        for config in folder.glob(f"{depth}/{names[0]}")
        if _has_all(config.parent, names)
    }
    return [path.relative_to(folder).as_posix() for path in sorted(found)[:_N_TOLD]]


def write(folder: Path, cfg: SAEConfig, weights: dict[str, torch.Tensor]) -> None:
    """Writes SAELens' layout."""
    folder.mkdir(parents=True, exist_ok=True)
    fields: dict[str, Any] = {
        "architecture": cfg.architecture,
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "dtype": str(weights["W_enc"].dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": cfg.apply_b_dec_to_input,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if (cfg.hook_name or "").endswith("hook_z") else "none",
        "metadata": {**cfg.metadata, "hook_name": cfg.hook_name},
    }
    if cfg.architecture == "topk":
        fields["k"] = cfg.k
        fields["rescale_acts_by_decoder_norm"] = cfg.rescale_acts_by_decoder_norm
    stored = {name: w.detach().cpu().contiguous() for name, w in weights.items()}
    save_file(stored, folder / _SAELENS[1])
    (folder / _SAELENS[0]).write_text(json.dumps(fields, indent=2) + "\n")


class _Fields:
    """The fields of a JSON file; what is not of the wanted type is refused by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ResourceLimitError(f"{path} has {path.stat().st_size} bytes; 1 MiB is the most")
        try:
            self.all = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path} is no JSON: {error}") from error
        if not isinstance(self.all, dict):
            raise FormatError(f"{path} holds a {type(self.all).__name__}; wanted an object")

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        """The field; `default` where it is absent or null."""
        value = self.all.get(name)
        if value is None:
            return default
        if type(value) is not kind:
            raise FormatError(f"{self.path}: {name} is {value!r}; wanted {kind.__name__}")
        return value

    def size(self, name: str) -> int:
        """A field that must be there, and positive."""
        value = self.get(name, int)
        if value is None or value < 1:
            raise FormatError(f"{self.path}: {name} is {value!r}; wanted a positive int")
        return int(value)

    def refuse(self, name: str, *allowed: Any) -> None:
        """Raises UnsupportedError unless the field is absent, null or one of these."""
        value = self.all.get(name)
        if value is not None and not any(value == one for one in allowed):
            raise UnsupportedError(f"{self.path}: {name} is {value!r}; bezel does not compute that")


def _shapes(path: Path, file: Any) -> Shapes:
    shapes = {}
    for name in file.keys():  # noqa: SIM118  it is no dict
        part = file.get_slice(name)
        if part.get_dtype() not in _FLOATS:
            raise FormatError(f'{path}: "{name}" is {part.get_dtype()}; wanted {_FLOATS}')
        shapes[name] = list(part.get_shape())
    return shapes


def _saelens(fields: _Fields, shapes: Shapes) -> Read:
    metadata = fields.get("metadata", dict, {})
    old = {key: value for key, value in fields.all.items() if key not in _KNOWN}
    name = metadata.get("hook_name") or old.get("hook_name") or old.get("hook_point")
    if name is not None and not isinstance(name, str):
        raise FormatError(f"{fields.path}: hook_name is {name!r}; wanted a str")
    for key in ("hook_head_index", "hook_name_out"):
        if metadata.get(key, old.get(key)) not in (None, name):
            raise UnsupportedError(
                f"{fields.path}: {key} is {metadata.get(key, old.get(key))!r}; bezel splices SAEs "
                "that read and write one whole value"
            )
    fields.refuse("finetuning_scaling_factor", False)
    fields.refuse("reshape_activations", "none", "hook_z")
    architecture, k = _kind(fields)
    cfg = SAEConfig(
        architecture,
        fields.size("d_in"),
        fields.size("d_sae"),
        name,
        fields.get("apply_b_dec_to_input", bool, True),
        k,
        architecture == "topk" and fields.get("rescale_acts_by_decoder_norm", bool, False),
        {**old, **metadata},
    )
    renamed = {name: name for name in shapes if name not in _OLD_SCALES}
    if "log_threshold" in renamed:
        renamed["log_threshold"] = "threshold"
    return cfg, renamed


def _kind(fields: _Fields) -> tuple[Any, int | None]:
    """(architecture, k): old files spell top-k as an activation function."""
    architecture = fields.get("architecture", str, "standard")
    given = fields.all.get("activation_fn", fields.all.get("activation_fn_str"))
    if given == "topk" and architecture in ("standard", "topk"):
        k = fields.get("activation_fn_kwargs", dict, {}).get("k")
        return "topk", k if type(k) is int else fields.size("k")
    if given not in (None, "relu"):
        raise UnsupportedError(f"{fields.path}: activation_fn is {given!r}; wanted relu or topk")
    return architecture, fields.size("k") if architecture == "topk" else None


def _gemma_scope_2(fields: _Fields, shapes: Shapes) -> Read:
    fields.refuse("architecture", "jump_relu")
    fields.refuse("affine_connection", False)
    fields.refuse("type", "sae")
    site = fields.get("hf_hook_point_in", str, "")
    fields.refuse("hf_hook_point_out", site)
    place = re.fullmatch(r"(?:model\.)?(?:language_model\.)?layers\.(\d+)\.(.+)", site)
    if place is None or place[2] not in _GEMMA_SCOPE_SITES:
        raise UnsupportedError(
            f"{fields.path}: hf_hook_point_in is {site!r}; bezel knows "
            f"model.layers.N.{{{', '.join(_GEMMA_SCOPE_SITES)}}}"
        )
    shape = shapes.get("w_enc", [])
    if len(shape) != 2 or 0 in shape:
        raise ModelMismatchError(f'{fields.path.parent}: "w_enc" is {shape}; wanted [d_in d_sae]')
    if (width := fields.get("width", int)) not in (None, shape[1]):
        raise ModelMismatchError(f'{fields.path}: width is {width}; "w_enc" is {shape}')
    cfg = SAEConfig(
        "jumprelu",
        shape[0],
        shape[1],
        f"blocks.{int(place[1])}.{_GEMMA_SCOPE_SITES[place[2]]}",
        fields.get("apply_b_dec_to_input", bool, False),
        metadata=fields.all,
    )
    return cfg, {n: n.replace("w_", "W_") if n in ("w_enc", "w_dec") else n for n in shapes}


def _folded(
    fields: _Fields, weights: dict[str, torch.Tensor], factor: float | None
) -> dict[str, torch.Tensor]:
    """The weights with the fixed factor of the inputs in them, if there is one."""
    kind = fields.all.get("normalize_activations")
    fields.refuse("normalize_activations", "none", "expected_average_only_in")
    if kind != "expected_average_only_in":
        if factor is not None:
            raise ArgumentError(
                f"norm_scaling_factor was given, and {fields.path} says that inputs are not scaled"
            )
        return weights
    factor = fields.get("norm_scaling_factor", float) if factor is None else float(factor)
    if factor is None or not 0 < factor < float("inf"):
        raise UnsupportedError(
            f"{fields.path}: inputs were scaled by a factor that the folder does not hold "
            f"({kind}); give load_from_disk(…, norm_scaling_factor=…)"
        )
    scales = {"W_enc": factor, "W_dec": 1 / factor, "b_dec": 1 / factor}
    return {name: w.double() * scales.get(name, 1.0) for name, w in weights.items()}


_KNOWN = frozenset(
    (
        *("architecture", "d_in", "d_sae", "k", "apply_b_dec_to_input"),
        *("rescale_acts_by_decoder_norm", "metadata"),
    )
)
