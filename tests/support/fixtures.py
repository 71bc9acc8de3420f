"""Tiny Gemma 4 checkpoints, made on demand by transformers: one recipe for each kind of model.

RECIPES are for the text model, with towers around some; media_fixtures has those for the towers.

    python -m support.fixtures FOLDER [name ...]      (with tests/ on PYTHONPATH)

Deterministic: a recipe always gives the same bytes. Sizes are unlike the published ones on
purpose, and unlike each other (head widths, key/value heads, windows), so that nothing can be
confused with anything else.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

from support.clip_bounds import make_clips_bite
from support.media import widest_case
from support.media_fixtures import MEDIA_RECIPES
from support.randomise import randomise
from support.recipe import FIRST_SPECIAL_ID, MEDIA_IDS, VOCAB, Recipe

__all__ = ["FIRST_SPECIAL_ID", "MEDIA_IDS", "RECIPES", "VOCAB", "Recipe", "build", "make", "tokens"]

_E2B = {
    "hidden_size": 48, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 1,
    "head_dim": 8, "global_head_dim": 16, "sliding_window": 5, "num_kv_shared_layers": 4,
    "use_double_wide_mlp": True, "hidden_size_per_layer_input": 12, "final_logit_softcapping": 4.0,
}  # fmt: skip
_MOE = {
    "hidden_size": 40, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "global_head_dim": 16, "num_global_key_value_heads": 1, "sliding_window": 17,
    "attention_k_eq_v": True, "use_bidirectional_attention": "vision", "enable_moe_block": True,
    "num_experts": 8, "top_k_experts": 3, "moe_intermediate_size": 12,
    "hidden_size_per_layer_input": 0, "final_logit_softcapping": 30.0,
}  # fmt: skip
_TWELVE_B = {
    "hidden_size": 32, "intermediate_size": 56, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "global_head_dim": 32, "num_global_key_value_heads": 1, "sliding_window": 8,
    "attention_k_eq_v": True, "use_bidirectional_attention": "vision",
    "hidden_size_per_layer_input": 0, "final_logit_softcapping": 3.0,
}  # fmt: skip

RECIPES: dict[str, Recipe] = {
    "e2b": Recipe("sssfsssf", _E2B),
    # num_global_key_value_heads counts only where K == V: here it must be ignored.
    "e4b": Recipe("ssfssf", _E2B | {
        "num_key_value_heads": 2, "num_global_key_value_heads": 1, "sliding_window": 3,
        "num_kv_shared_layers": 3, "use_double_wide_mlp": False, "hidden_size_per_layer_input": 10,
        "vocab_size_per_layer_input": VOCAB + 7,
    }, seed=2),
    "twelve_b": Recipe("sssssf", _TWELVE_B, seed=3),
    "moe": Recipe("ssfssf", _MOE, seed=4),
    "dense31": Recipe("sfssf", {
        "hidden_size": 64, "intermediate_size": 48, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 8, "global_head_dim": 16,
        "num_global_key_value_heads": 2, "sliding_window": 2, "attention_k_eq_v": True,
        "use_bidirectional_attention": "vision", "hidden_size_per_layer_input": 0,
        "final_logit_softcapping": 5.0,
    }, thetas=(20.0, 300.0), seed=5),
    "nosoftcap": Recipe("ssfsf", _E2B | {
        "sliding_window": 17, "num_kv_shared_layers": 2, "final_logit_softcapping": None,
    }, seed=6),
    # As many key/value heads as heads, no sharing, no PLE, and an epsilon that one can see.
    "mha": Recipe("sfsf", {
        "hidden_size": 40, "intermediate_size": 64, "num_attention_heads": 3,
        "num_key_value_heads": 3, "head_dim": 16, "global_head_dim": 24, "sliding_window": 5,
        "hidden_size_per_layer_input": 0, "final_logit_softcapping": 6.0, "rms_norm_eps": 1e-3,
    }, thetas=(100.0, 100.0), seed=7),
    "wrapped_e2b": Recipe("sssfsssf", _E2B, wrapper="gemma4_audio", seed=8),
    "wrapped_moe": Recipe("ssfssf", _MOE | {"sliding_window": 5}, wrapper="gemma4", seed=9),
    "unified": Recipe("sssssf", _TWELVE_B, wrapper="unified", seed=10),
}  # fmt: skip
TEXT_ONLY = tuple(name for name, recipe in RECIPES.items() if recipe.wrapper == "none")
WRAPPED = tuple(name for name in RECIPES if name not in TEXT_ONLY)

_VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "patch_size": 4, "position_embedding_size": 16,
    "use_clipped_linears": True, "standardize": True,
}  # fmt: skip
_AUDIO = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "subsampling_conv_channels": [8, 4], "output_proj_dims": 12,
}  # fmt: skip
_ENCODER_FREE_VISION = {
    "patch_size": 2, "pooling_kernel_size": 3, "mm_embed_dim": 20, "mm_posemb_size": 9,
    "output_proj_dims": 20,
}  # fmt: skip


def recipe_of(name: str) -> Recipe:
    """The recipe of this name, with or without media in mind."""
    return RECIPES[name] if name in RECIPES else MEDIA_RECIPES[name]


def _text_arguments(recipe: Recipe) -> dict[str, Any]:
    words = {"s": "sliding_attention", "f": "full_attention"}
    sliding_theta, full_theta = recipe.thetas
    arguments: dict[str, Any] = {
        "vocab_size": VOCAB,
        "vocab_size_per_layer_input": VOCAB,
        "num_hidden_layers": len(recipe.layers),
        "layer_types": [words[letter] for letter in recipe.layers],
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": sliding_theta},
            "full_attention": {
                "rope_type": "proportional",
                "partial_rotary_factor": 0.25,
                "rope_theta": full_theta,
            },
        },
    }
    arguments.update(recipe.text)
    return arguments


def _unified(recipe: Recipe) -> transformers.PreTrainedModel:
    text = _text_arguments(recipe)
    for name in ("hidden_size_per_layer_input", "vocab_size_per_layer_input"):
        text.pop(name)  # the unified text model has no per-layer embeddings
    config = transformers.Gemma4UnifiedConfig(
        text_config=text,
        vision_config=dict(recipe.vision or _ENCODER_FREE_VISION),
        audio_config=dict(recipe.audio or {"audio_embed_dim": 24}),
        **MEDIA_IDS,
    )
    return transformers.Gemma4UnifiedForConditionalGeneration(config)


def build(name: str) -> transformers.PreTrainedModel:
    """The model of a recipe, in memory, float32."""
    recipe = recipe_of(name)
    model: transformers.PreTrainedModel
    if recipe.wrapper == "none":
        model = transformers.Gemma4ForCausalLM(
            transformers.Gemma4TextConfig(**_text_arguments(recipe))
        )
    elif recipe.wrapper == "unified":
        model = _unified(recipe)
    else:
        audio = dict(recipe.audio or _AUDIO) if recipe.wrapper == "gemma4_audio" else None
        config = transformers.Gemma4Config(
            text_config=_text_arguments(recipe),
            vision_config=dict(recipe.vision or _VISION),
            audio_config=audio,
            **MEDIA_IDS,
        )
        model = transformers.Gemma4ForConditionalGeneration(config)
    randomise(model, recipe.seed)
    model.eval()
    if name in MEDIA_RECIPES:
        make_clips_bite(model, widest_case(name), recipe.seed)
    return model


def make(name: str, root: Path) -> Path:
    """The folder of the checkpoint `name` under root; written on the first call."""
    folder = root / name
    if folder.is_dir():
        return folder
    unfinished = root / f".{name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    build(name).save_pretrained(unfinished)
    unfinished.rename(folder)
    return folder


def tokens(length: int, batch: int = 2, seed: int = 0) -> torch.Tensor:
    """Ordinary token ids [batch pos]: no pad, eos, bos, or media id among them."""
    rng = torch.Generator().manual_seed(1000 + seed)
    return torch.randint(3, FIRST_SPECIAL_ID, (batch, length), generator=rng)


def main(arguments: list[str]) -> int:
    if not arguments:
        print(__doc__)
        return 2
    for name in arguments[1:] or [*RECIPES, *MEDIA_RECIPES]:
        print(make(name, Path(arguments[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
