"""The accuracy tables: every name, the logits and the loss beside transformers: `make parity`.

Without MODEL: the fixtures that transformers makes, and the shipped miniature. With MODEL: that
checkpoint, which transformers must be able to load beside bezel in float32. Exits with 1 when a
value is outside its gate.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from report import write_section

import bezel
from support import checkpoint_forms, compare, fixtures, reference
from support.exact import text_model_of
from support.hook_table import Point, hook_points_of
from support.lab import load_reference

_NANO = Path(__file__).resolve().parents[1] / "data" / "nano"
_PATHS = ("automatic", "open")
_LOSS_GATE = 1e-6
_BFLOAT16_GATE = 2.0
_BFLOAT16_TOKENS = (8, 40)  # batch, pos: enough for sums that do not depend on single values
_HEAD = ("model", "names", "worst name", "its error", "logits / gate", "loss",
         "bf16 worst row", "its ratio", "bf16 logits ratio")  # fmt: skip


@dataclass
class Row:
    """Float32: errors (relative RMS; of logits in gates); bfloat16: ratios to the reference's."""

    model: str
    n_names: int
    worst: tuple[float, str] = (0.0, "")
    logits: float = 0.0
    loss: float = 0.0
    bfloat16: tuple[float, str] = (0.0, "")
    bfloat16_logits: float = 0.0

    def cells(self) -> Iterator[str]:
        yield from (self.model, str(self.n_names), f"`{self.worst[1]}`", f"{self.worst[0]:.1e}")
        yield from (f"{self.logits:.2f}", f"{self.loss:.1e}", f"`{self.bfloat16[1]}`")
        yield from (f"{self.bfloat16[0]:.2f}", f"{self.bfloat16_logits:.2f}")

    def is_right(self) -> bool:
        return (
            self.worst[0] <= compare.RELATIVE_RMS
            and self.logits <= 1.0
            and self.loss <= _LOSS_GATE
            and max(self.bfloat16[0], self.bfloat16_logits) <= _BFLOAT16_GATE
        )


def random_ids(model: torch.nn.Module, batch: int, length: int) -> torch.Tensor:
    """Ordinary ids, the same on every machine."""
    d_vocab = min(text_model_of(model).config.vocab_size, fixtures.FIRST_SPECIAL_ID)
    rng = torch.Generator().manual_seed(7)
    return torch.randint(3, d_vocab, (batch, length), generator=rng)


def float32_errors(row: Row, folder: Path, points: list[Point], lengths: Iterable[int]) -> None:
    model = load_reference(folder, torch.float32)
    names = [point.name for point in points]
    for length in lengths:
        tokens = random_ids(model, 2, length)
        want = reference.capture(model, tokens)
        with torch.no_grad():
            want_loss = model(tokens, labels=tokens).loss
        for path in _PATHS:
            bridge = bezel.Bridge.from_pretrained(str(folder), dtype=torch.float32, path=path)
            (logits, loss), cache = bridge.run_with_cache(tokens, names, return_type="both")
            errors = [(compare.error(p, cache[p.name], want[p.name]), p.name) for p in points]
            row.worst = max(row.worst, *errors)
            for got in (logits, bridge(tokens)):  # the second opens nothing
                gap = float((got - want["hook_logits"]).abs().max())
                row.logits = max(row.logits, gap / compare.logits_gate(want["hook_logits"]))
            row.loss = max(row.loss, float((loss - want_loss).abs() / want_loss))


def bfloat16_ratios(row: Row, folder: Path, points: list[Point]) -> None:
    model = load_reference(folder, torch.float32)
    tokens = random_ids(model, *_BFLOAT16_TOKENS)
    oracle = reference.capture(model, tokens)
    del model
    gc.collect()
    theirs = reference.capture(load_reference(folder, torch.bfloat16), tokens)
    want = oracle["hook_logits"]
    peer = compare.relative_rms(theirs["hook_logits"], want)
    for path in _PATHS:
        bridge = bezel.Bridge.from_pretrained(str(folder), dtype=torch.bfloat16, path=path)
        _, cache = bridge.run_with_cache(tokens, [point.name for point in points])
        by_row = compare.ratios(points, cache, theirs, oracle)
        row.bfloat16 = max(row.bfloat16, *((ratio, name) for name, ratio in by_row.items()))
        ours = compare.relative_rms(bridge(tokens), want)
        row.bfloat16_logits = max(row.bfloat16_logits, ours / peer)


def measure(name: str, folder: Path, lengths: Iterable[int], scratch: Path) -> Row:
    points = hook_points_of(text_model_of(load_reference(folder, torch.float32)).config)
    row = Row(name, len(points))
    float32_errors(row, folder, points, lengths)
    tensors = checkpoint_forms.stored_dtypes(folder)
    if tensors != {torch.bfloat16}:  # both runs must have the same rounded weights
        folder = checkpoint_forms.in_form(folder, "bfloat16", scratch / f"{name}-bfloat16")
    bfloat16_ratios(row, folder, points)
    return row


def lengths_around(window: int) -> list[int]:
    return sorted({2, window - 1, window, window + 1, 31, 32, 33, 4 * window + 3} - {0, 1})


def subjects(model: Path | None, scratch: Path) -> Iterator[tuple[str, Path, list[int]]]:
    """(name, folder, lengths)."""
    if model is not None:
        yield model.resolve().name, model, [33, 64]
        return
    for name, recipe in fixtures.RECIPES.items():
        yield name, fixtures.make(name, scratch), lengths_around(recipe.window)
    yield "nano", _NANO, lengths_around(24)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", help="a folder with a Gemma 4 checkpoint")
    parser.add_argument("--write", type=Path, help="put the table between this file's marks")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    lines = [f"| {' | '.join(_HEAD)} |", "|---|--:|---|--:|--:|--:|---|--:|--:|"]
    print("\n".join(lines), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, folder, lengths in subjects(arguments.model, Path(scratch)):
            rows.append(measure(name, folder, lengths, Path(scratch)))
            lines.append(f"| {' | '.join(rows[-1].cells())} |")
            print(lines[-1], flush=True)
    if arguments.write:
        write_section(arguments.write, "parity", "\n".join(lines))
    return 0 if all(row.is_right() for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
