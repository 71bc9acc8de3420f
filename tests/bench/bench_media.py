"""The encoders of images and sound at their real width, beside those of transformers."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from report import table_of_threads
from timing import Contender, median_ms

import bezel
from support.randomise import randomise

_PEER = "transformers"
IMAGE_ID, VIDEO_ID, AUDIO_ID = 500, 501, 502
_TEXT = {
    "hidden_size": 1536, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1,
    "num_key_value_heads": 1, "head_dim": 32, "global_head_dim": 32, "vocab_size": 512,
    "hidden_size_per_layer_input": 0, "layer_types": ["full_attention"],
}  # fmt: skip
_VISION = {"num_hidden_layers": 2, "use_clipped_linears": True}  # 768 wide, 12 heads of 64
_AUDIO = {"num_hidden_layers": 2}  # 1,024 wide, 8 heads, clipped linears
N_PATCHES = 2520  # of the largest image: 280 soft tokens
N_MEL_FRAMES = 1000  # 10 s


def make_media_checkpoint(dtype: torch.dtype, folder: Path) -> Path:
    """Both encoders with two blocks each, beside a text model that is next to nothing."""
    torch.manual_seed(0)
    config = transformers.Gemma4Config(
        text_config=_TEXT, vision_config=_VISION, audio_config=_AUDIO,
        image_token_id=IMAGE_ID, video_token_id=VIDEO_ID, audio_token_id=AUDIO_ID,
    )  # fmt: skip
    model = transformers.Gemma4ForConditionalGeneration(config).to(dtype).eval()
    randomise(model, seed=0)
    model.save_pretrained(folder)
    return folder


def image(columns: int, rows: int) -> dict[str, torch.Tensor]:
    """One image of this grid among N_PATCHES patches, the others padding."""
    ys, xs = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = torch.full((1, N_PATCHES, 2), -1)
    places[0, : columns * rows] = torch.stack((xs.flatten(), ys.flatten()), -1)
    return {"pixel_values": torch.rand(1, N_PATCHES, 768), "image_position_ids": places}


def clip() -> dict[str, torch.Tensor]:
    """Ten seconds of sound."""
    return {
        "input_features": torch.randn(1, N_MEL_FRAMES, 128),
        "input_features_mask": torch.ones(1, N_MEL_FRAMES, dtype=torch.bool),
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread: then the process's CPU time is the run's own."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n)


def bench_encoder(
    title: str,
    media: dict[str, torch.Tensor],
    token: int,
    dtype: torch.dtype,
    seconds: float,
) -> str:
    """Media to features in the places of their tokens, beside the reference's features alone."""
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        folder = make_media_checkpoint(dtype, Path(scratch))
        b = bezel.Bridge.from_pretrained(str(folder))
        reference: Any = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa"
        ).eval()
        mel = "input_features" in media
        features = (
            (lambda: reference.model.get_audio_features(**media))
            if mel
            else (lambda: reference.model.get_image_features(**media))
        )
        n_soft = (
            -(-N_MEL_FRAMES // 4) if mel else int((media["image_position_ids"] >= 0).sum()) // 18
        )
        tokens = torch.full((1, n_soft), token)
        names = "audio_encoder.*" if mel else "vision_encoder.*"
        contenders: dict[str, Contender] = {
            _PEER: features,
            "bezel, features put into the text": lambda: b(tokens, stop_at_layer=0, **media),
            "bezel, and all values of the encoder": lambda: b.run_with_cache(
                tokens, names, stop_at_layer=0, **media
            ),
        }
        all_cores = median_ms(contenders, seconds / 2)
        with one_thread():
            alone = median_ms(contenders, seconds / 2, time.process_time)
    return table_of_threads(title, alone, all_cores, _PEER)


def media_memory() -> str:
    """What keeping every value of both encoders takes, beside what was foretold."""
    lines = [
        f"### Memory of the encoders' values: 2 blocks each, {N_PATCHES} patches and 10 s",
        "",
        "| | foretold, MiB | taken, MiB | taken / foretold |",
        "|---|---:|---:|---:|",
    ]
    for dtype in (torch.float32, torch.bfloat16):
        with tempfile.TemporaryDirectory() as scratch:
            folder = make_media_checkpoint(dtype, Path(scratch))
            script = Path(__file__).with_name("memory_media.py")
            answer = subprocess.run(
                [sys.executable, script, folder], check=True, capture_output=True, text=True
            )
        foretold, taken = (n / 2**20 for n in json.loads(answer.stdout).values())
        name = str(dtype).removeprefix("torch.")
        lines.append(f"| {name} | {foretold:.0f} | {taken:.0f} | {taken / foretold:.3f} |")
    return "\n".join([*lines, ""])


def media_tables(seconds: float) -> str:
    """Every table of this file."""
    inputs = {
        f"Vision, 768 wide, 2 blocks, {N_PATCHES} patches": (image(60, 42), IMAGE_ID),
        f"Vision, 768 wide, 2 blocks, {N_PATCHES} patches of which 2304 valid": (
            image(48, 48),
            IMAGE_ID,
        ),
        "Audio, 1,024 wide, 2 blocks, 10 s": (clip(), AUDIO_ID),
    }
    return "\n".join(
        bench_encoder(f"{title}, {str(dtype).removeprefix('torch.')}", media, token, dtype, seconds)
        for title, (media, token) in inputs.items()
        for dtype in (torch.float32, torch.bfloat16)
    )
