"""Processors of transformers for the tiny media fixtures, with a word tokenizer of their ids."""

from __future__ import annotations

from typing import Any

import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from support.media import Shapes
from support.media_fixtures import MEDIA_RECIPES
from support.recipe import FIRST_SPECIAL_ID, MEDIA_IDS, VOCAB

MARKS = {
    "boi_token_id": "<|image>", "eoi_token_id": "<image|>", "image_token_id": "<|image|>",
    "video_token_id": "<|video|>", "boa_token_id": "<|audio>", "eoa_token_index": "<audio|>",
    "audio_token_id": "<|audio|>",
}  # fmt: skip
SOFT_TOKENS = 70  # of an image at most: the fewest that the processors know


def word(id: int) -> str:
    """The word of an ordinary id."""
    return f"w{id}"


def tokenizer() -> Any:
    """Words "w3" … with their own ids, and the marks of media."""
    specials = {"<pad>": 0, "<eos>": 1, "<bos>": 2}
    specials |= {mark: MEDIA_IDS[key] for key, mark in MARKS.items()}
    words = {word(id): id for id in (*range(3, FIRST_SPECIAL_ID), VOCAB - 1)}
    core = Tokenizer(models.WordLevel(specials | words, unk_token=word(3)))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens([AddedToken(one, special=True, normalized=False) for one in specials])
    names = ("boi_token", "eoi_token", "image_token", "boa_token", "eoa_token", "audio_token")
    keys = ("boi_token_id", "eoi_token_id", "image_token_id")
    keys += ("boa_token_id", "eoa_token_index", "audio_token_id")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        padding_side="left",
        extra_special_tokens={name: MARKS[key] for name, key in zip(names, keys, strict=True)},
    )


def processor(name: str) -> Any:
    """For a recipe of `media_fixtures`. Images should be about as wide as high: the fixtures'
    position tables are short."""
    recipe = MEDIA_RECIPES[name]
    assert recipe.vision is not None
    family = "Gemma4Unified" if recipe.wrapper == "unified" else "Gemma4"
    sizes = {
        "patch_size": recipe.vision["patch_size"],
        "pooling_kernel_size": recipe.vision["pooling_kernel_size"],
        "max_soft_tokens": SOFT_TOKENS,
    }
    width = Shapes(recipe).d_sound or 16
    sound = {"feature_size": width}
    if recipe.wrapper == "unified":
        sound["audio_samples_per_token"] = width
    parts = {
        "image_processor": _made(family + "ImageProcessor", **sizes),
        "video_processor": _made(family + "VideoProcessor", num_frames=2, **sizes),
        "feature_extractor": _made(family + "AudioFeatureExtractor", **sound),
        "tokenizer": tokenizer(),
    }
    return _made(family + "Processor", **parts)


def _made(name: str, **arguments: Any) -> Any:
    return getattr(transformers, name)(**arguments)
