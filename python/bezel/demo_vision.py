"""Which patches of an image reach a logit, drawn over the image; and features put elsewhere.

python -m bezel.demo_vision [--out FILE.svg]

On a tiny checkpoint with random weights, made on the spot by transformers: nothing is trained, and
nothing is fetched. The same lines work on a real one, with `b.prepare_multimodal_inputs`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bezel import errors
from bezel.arguments import MediaArguments
from bezel.bridge import Bridge
from bezel.errors import ArgumentError
from bezel.patch_drawing import drawing

_PATCH, _POOL, _SIDE = 4, 3, 12  # pixels of a patch; patches of a soft token; patches of an image
_N_SOFT = (_SIDE // _POOL) ** 2
_IMAGE, _BEGIN, _END = 62, 60, 61  # ids of an image's token, and of the marks around it
_VALUE = "vision_encoder.hook_patches"
_FEATURES = "vision_projector.hook_out"
_N_SHOWN = 4
_SMALL, _AGREES = 0.01, 0.1  # a change to which the gradient is a good guide, and how good
_SPREAD = 0.12  # of random weights: larger than what training begins with, so that inputs matter


class Prompt(NamedTuple):
    """Token ids [1 pos] around an image [row column colour], 0 to 1."""

    tokens: torch.Tensor
    image: torch.Tensor

    @property
    def media(self) -> MediaArguments:
        """The image as patches, row by row."""
        squares = self.image.reshape(_SIDE, _PATCH, _SIDE, _PATCH, 3)
        patches = squares.movedim(2, 1).reshape(1, _SIDE * _SIDE, -1)
        places = torch.arange(_SIDE)
        row, column = torch.meshgrid(places, places, indexing="ij")
        positions = torch.stack((column.flatten(), row.flatten()), -1).unsqueeze(0)
        return {"pixel_values": patches, "image_position_ids": positions}


def make_checkpoint(folder: Path) -> None:
    """A tiny Gemma 4 that sees, with random weights. Raises ArgumentError without transformers."""
    try:
        import transformers
    except ImportError as error:
        raise ArgumentError(
            f'the demo makes its checkpoint with transformers: pip install "bezel[media]" ({error})'
        ) from error
    transformers.logging.disable_progress_bar()
    text = {
        "vocab_size": 64, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 16,
        "hidden_size_per_layer_input": 0, "sliding_window": 16,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": 4, "patch_size": _PATCH,
        "pooling_kernel_size": _POOL, "position_embedding_size": _SIDE,
    }  # fmt: skip
    ids = {"image_token_id": _IMAGE, "boi_token_id": _BEGIN, "eoi_token_id": _END}
    ids |= {"video_token_id": 59, "audio_token_id": 58, "boa_token_id": 57, "eoa_token_index": 56}
    config = transformers.Gemma4Config(text_config=text, vision_config=vision, **ids)
    model: Any = transformers.Gemma4ForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=_SPREAD, generator=generator)
    model.save_pretrained(folder)


def picture(center: tuple[float, float], radius: float, colour: list[float]) -> torch.Tensor:
    """A disc of this colour on a pale ground that darkens downwards, [row column colour]."""
    n = _SIDE * _PATCH
    row, column = torch.meshgrid(torch.arange(n) / n, torch.arange(n) / n, indexing="ij")
    ground = torch.stack((0.9 - 0.3 * row, 0.92 - 0.3 * row, 0.85 - 0.2 * row), -1)
    inside = (row - center[0]) ** 2 + (column - center[1]) ** 2 < radius**2
    return torch.where(inside.unsqueeze(-1), torch.tensor(colour), ground)


def prompt(before: list[int], image: torch.Tensor, behind: list[int]) -> Prompt:
    """Ids, an image between its marks, ids."""
    ids = [2, *before, _BEGIN, *[_IMAGE] * _N_SOFT, _END, *behind]
    return Prompt(torch.tensor([ids]), image)


def logits_of(b: Bridge, asked: Prompt, **arguments: Any) -> torch.Tensor:
    """What comes next, [d_vocab]."""
    logits = b.run_with_hooks(asked.tokens, **asked.media, **arguments)
    assert isinstance(logits, torch.Tensor)
    return logits[0, -1].detach()


def attributed(b: Bridge, asked: Prompt, token: int) -> torch.Tensor:
    """Gradient of the token's logit times value, summed over each patch's numbers, [patch]."""
    logits, cache = b.run_with_cache(asked.tokens, _VALUE, incl_bwd=True, **asked.media)
    assert isinstance(logits, torch.Tensor)
    torch.autograd.backward(logits[0, -1, token])
    return (cache[_VALUE] * cache[f"{_VALUE}_grad"])[0].sum(-1)


def show_patches(b: Bridge, asked: Prompt, out: Path) -> bool:
    """Prints the strongest patches beside what changing each does, and draws them all.

    True when a small change does what the gradient says.
    """
    plain = logits_of(b, asked)
    token = int(plain.argmax())
    scores = attributed(b, asked, token)
    print(f"the likeliest next token is {token}, its logit {float(plain[token]):.3f}")
    print("patch (row, column)   gradient × value   1 % more of it, × 100   all of it greyed")

    def changed(patch: int, factor: float) -> float:
        def scale(value: torch.Tensor, hook: Any) -> None:
            value[:, patch] *= factor  # 0 is in the middle between black and white

        return float((logits_of(b, asked, fwd_hooks=[(_VALUE, scale)]) - plain)[token])

    holds = True
    for patch in scores.abs().topk(_N_SHOWN).indices.tolist():
        score, slope = float(scores[patch]), changed(patch, 1 + _SMALL) / _SMALL
        place = f"({patch // _SIDE:2}, {patch % _SIDE:2})"
        greyed = changed(patch, 0)
        print(f"      {place:<16}{score:+14.4f}   {slope:+20.4f}   {greyed:+16.4f}")
        holds = holds and abs(slope - score) <= _AGREES * abs(score)
    title = f"gradient × value at {_VALUE}, for the logit of token {token}"
    out.write_text(drawing(asked.image, scores.view(_SIDE, _SIDE), title))
    print(f"drawn over the image in {out}: red patches raise the logit, blue ones lower it")
    return holds


def show_features(b: Bridge, first: Prompt, second: Prompt) -> bool:
    """Puts the first image's features in the second prompt; True when that is as seeing it."""
    pixels, positions = first.media["pixel_values"], first.media["image_position_ids"]
    features, _ = b.vision(pixels, positions, names_filter=_FEATURES)
    own = logits_of(b, second)
    token = int(own.argmax())
    patched = logits_of(b, second, fwd_hooks=[(_FEATURES, lambda value, hook: features)])
    seen = logits_of(b, second._replace(image=first.image))
    rows = {"with its own image": own, "with the other's features": patched}
    rows["seeing the other image"] = seen
    for what, logits in rows.items():
        best = int(logits.argmax())
        print(
            f"{what:<26} token {token}: {float(logits[token]):+7.3f}   likeliest: token {best:2} "
            f"with {float(logits[best]):+7.3f}"
        )
    same = torch.allclose(patched, seen, atol=1e-5)
    changed = float((patched - own).abs().max())
    print(f"the features alone carry the image: {same}; they change a logit by up to {changed:.3f}")
    return same and changed > 0


def run(out: Path) -> bool:
    """The demonstration; True when everything that it checks holds."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "tiny"
        make_checkpoint(folder)
        b = Bridge.from_pretrained(str(folder), dtype=torch.float32)
    print(repr(b).splitlines()[0])
    disc = picture((0.35, 0.3), 0.2, [0.85, 0.15, 0.1])
    other = picture((0.7, 0.7), 0.25, [0.1, 0.2, 0.8])
    first, second = prompt([5, 9, 17], disc, [21, 33]), prompt([40], other, [12, 8, 30, 7])
    print("\n── which patches reach a logit")
    holds = show_patches(b, first, out)
    print("\n── one image's features in another prompt")
    return show_features(b, first, second) and holds


def main() -> int:
    """The command line. 0: done; 1: a check failed; 2: something it needs is missing."""
    parser = argparse.ArgumentParser(
        prog="bezel.demo_vision", description="Which patches of an image reach a logit."
    )
    parser.add_argument("--out", type=Path, default=Path("demo_vision.svg"), help="the drawing")
    arguments = parser.parse_args()
    try:
        return 0 if run(arguments.out) else 1
    except (errors.Error, OSError) as error:
        print(f"bezel.demo_vision: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
